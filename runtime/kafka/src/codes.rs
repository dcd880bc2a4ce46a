//! Names and texts of error codes, out of librdkafka's own table.

use rdkafka::bindings::rd_kafka_get_err_descs;
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// Every code librdkafka knows, with its name and text.
fn descriptions() -> &'static HashMap<i32, (&'static str, &'static str)> {
    static TABLE: OnceLock<HashMap<i32, (&'static str, &'static str)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut first = ptr::null();
        let mut count = 0;
        // SAFETY: the table is a constant of librdkafka; entries without a name are holes.
        unsafe {
            rd_kafka_get_err_descs(&mut first, &mut count);
            (0..count)
                .map(|i| first.add(i))
                .filter(|d| !(**d).name.is_null() && !(**d).desc.is_null())
                .map(|d| {
                    ((&raw const (*d).code).cast::<i32>().read(), (text(NonNull::from(&*(*d).name)), text(NonNull::from(&*(*d).desc))))
                })
                .collect()
        }
    })
}

/// SAFETY: `from` must point to a text that lives as long as the process.
unsafe fn text(from: NonNull<c_char>) -> &'static str {
    unsafe { CStr::from_ptr(from.as_ptr()) }.to_str().unwrap_or("")
}

/// The text of an error code.
pub fn describe(code: i32) -> String {
    descriptions().get(&code).map_or_else(|| format!("unknown error {code}"), |(_, text)| (*text).to_owned())
}

/// The name of an error code.
pub fn name(code: i32) -> &'static str {
    descriptions().get(&code).map_or("UNKNOWN", |(name, _)| *name)
}
