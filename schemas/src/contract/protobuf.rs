//! Protobuf: a JSON document becomes a message, written straight from the scanned text.
//!
//! The mapping is the one Protobuf's specification has for JSON (ProtoJSON): keys as `json_name` or as in the file, 64-bit integers as numbers or
//! texts, enums by name or number, bytes in base64, `Timestamp` and `Duration` as texts, wrappers as their value, `Struct`, `Value` and `ListValue`
//! as any JSON. `null` is a field left out. A key that the message does not know, a number out of its range, two members of one `oneof` are misfits.
//! Not converted, and refused where a schema uses them: `Any`, `FieldMask`, groups.

mod compile;
mod known;
mod types;
mod write;

pub(super) use compile::compile;
pub(super) use types::Message;
