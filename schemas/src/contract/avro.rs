//! Avro: a JSON document becomes a record, written straight from the scanned text.
//!
//! | in JSON | in Avro |
//! |---|---|
//! | null, true, a string, an array, an object | null, boolean, string, array, record or map |
//! | a number without fraction | int, long; float and double where they hold it exactly |
//! | any number | float, double; decimal where no digit is left over |
//! | `"NaN"`, `"Infinity"`, `"-Infinity"` | float, double |
//! | `"12.50"` | decimal |
//! | base64 | bytes, fixed |
//! | a number, or a text as RFC 3339 has it | date, time-*, timestamp-*, local-timestamp-* |
//! | a symbol, a UUID | enum, uuid |
//!
//! - A field that is left out gets its default, else null where its type has it; else it is missing. A key that the schema does not know is a misfit.
//! - Of a union, the branch is taken that fits the value as it is written (`5` a long, `5.0` a double, a text a string before anything else), in the
//!   order of the schema; of several records, the first that knows all keys and lacks none. `{"branch": value}`, as Avro's own JSON has it, names
//!   the branch.
//!
//! Fields may come in any order: they are written as they come and put in order at the record's end.

mod compile;
mod leaf;
mod resolve;
mod show;
mod types;
mod union;
mod write;

pub(super) use compile::compile;
pub(super) use types::Avro;
