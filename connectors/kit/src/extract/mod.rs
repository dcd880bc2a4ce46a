//! Samples out of a record: a JSON payload by JSON Pointers (RFC 6901), a CSV row by columns, or a payload that is one value.
//!
//! ```text
//! samples: {speed: /v/kmh, soc: /battery/soc}, time: /ts, status: /quality
//!
//!            (root)                  compiled once: a tree of the pointers' steps
//!           /  |   \                 read: one pass over the payload along that tree; everything else is read over
//!          v battery  ts             found: one value for each sample, or one for each leaf of a structure
//!          |   |
//!         kmh soc
//! ```
//!
//! | in the record | in the batch |
//! |---|---|
//! | `5`, `5.0`, `18446744073709551615` | `Int`, `Double`, `UInt` |
//! | an integer of more than 64 bits, a number beyond all doubles | null, BadOutOfRange, and why |
//! | `"text"`, `true` | `Text`, `Bool` |
//! | `[1,2]`, `[1,2.5]`, `["a"]`, `[true]` | `Array` of Int or UInt, Double, Text, Bool; `[]` is one of Int |
//! | an array with a null, with items of several types, with arrays or objects | `Struct` |
//! | an object | one value for each leaf, with its path `field/field`; with `structure: json` one `Struct` |
//! | `null`, an empty cell | null, BadNoData |
//! | nothing | null, BadNotFound |
//!
//! The status of a found value is the worse of its own and the record's; a time in the doubled hour makes a good one uncertain.
//! Invariants: no tree of the payload, no allocation per value; no number is rounded; of a key that stands twice the last counts; a structure has at
//! most [`LEAVES`] leaves with paths of at most [`PATH`] bytes.

mod each;
mod extracted;
mod json;
mod near;
pub(crate) mod pointer;
mod row;
mod rules;
mod senml;
mod status;
#[cfg(test)]
mod tests;

pub use each::{Each, Item, Name, Readings, Taken};
pub use extracted::{Extracted, Found, LEAVES, PATH};
pub use json::{Extraction, StatusAt, TimeAt, Wanted};
pub use near::mend;
pub use pointer::{Places, Pointer};
pub use row::{RowExtraction, column, list};
pub use rules::{CellType, FirstTypes, Missing, Notation, Nulls, Rules, SampleConfig, SamplesConfig, ValueMap, number, text};
pub use senml::senml;
pub use status::{StatusConfig, StatusNotation};

use millrace_contract::Structure;
use millrace_schemas::Batch;

/// Entry point of the fuzzer: a payload from anywhere is extracted or refused.
#[doc(hidden)]
pub fn fuzz_extract(payload: &[u8]) {
    let pointers: Vec<_> = ["", "/a", "/a/b", "/v/0", "/v/1/x", "/a~1b"].into_iter().filter_map(|text| Pointer::parse(text).ok()).collect();
    for structure in [Structure::Expand, Structure::Json] {
        let time = Pointer::parse("/ts").ok().map(|pointer| TimeAt::from((pointer, crate::time::Clock::default())));
        for (time, status) in [(time, Pointer::parse("/s").ok().map(StatusAt::from)), (None, None)] {
            let extraction = Extraction::new(pointers.iter().map(|pointer| (pointer, Some(structure))), time, status);
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            if extraction.read(payload, &mut batch, &mut into).is_ok() {
                assert!(into.iter().all(|found| found.sample < pointers.len()));
            }
        }
    }
    let each = Each::new(
        vec![pointers[1].clone(), pointers[0].clone()],
        vec![Wanted::from((&pointers[0], None))],
        vec![pointers[1].clone()],
        None,
        None,
    );
    let _ = each.read(payload, &mut Batch::new(), &mut Readings::default(), &mut |_, _| ());
    let _ = number(payload, Notation::default());
    if let Ok(text) = std::str::from_utf8(payload) {
        let _ = mend(text);
    }
}
