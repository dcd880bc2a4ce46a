//! For fuzzing: whatever the bytes are, nothing panics, and reading and passing over agree.

use crate::wire::{Reader, builtin};
use millrace_schemas::Batch;

/// Fuzz target: any bytes as data values, one after the other; reading and passing over agree on where each ends.
pub fn fuzz_opcua_value(bytes: &[u8]) {
    let mut batch = Batch::new();
    let mut reader = Reader::new(bytes);
    while !reader.rest().is_empty() {
        let mut skipped = reader;
        let mut written = reader;
        let read = reader.data_value(&mut batch, bytes);
        let passed = skipped.skip(builtin::DATA_VALUE);
        if read.is_err() || passed.is_err() {
            break;
        }
        assert_eq!(reader.rest().len(), skipped.rest().len());
        let mut text = Vec::new();
        if written.json(builtin::DATA_VALUE, &mut text).is_ok() {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
        batch.clear();
    }
    crate::types::fuzz_structure(bytes);
}
