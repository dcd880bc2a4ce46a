//! Texts, times and answers, between C and Rust.

use crate::error::KafkaError;
use rdkafka::bindings::*;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;

pub(super) const NO_ERROR: i32 = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as i32;

pub(super) fn c_string(text: &str) -> Result<CString, KafkaError> {
    CString::new(text)
        .map_err(|_| KafkaError::new(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32, format!("{text:?} holds a NUL character")))
}

/// Reads a C text that librdkafka owns; null is empty.
///
/// SAFETY: `from` is null or points to a NUL-terminated text.
pub(super) unsafe fn owned(from: *const c_char) -> String {
    if from.is_null() { String::new() } else { unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned() }
}

pub(super) fn check(code: rd_kafka_resp_err_t, what: &str) -> Result<(), KafkaError> {
    match code as i32 {
        NO_ERROR => Ok(()),
        code => Err(KafkaError::described(code, what)),
    }
}

pub(super) fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// SAFETY: a non-null pointer shows `len` bytes that live through `'a`.
pub(super) unsafe fn slice<'a>(from: *const c_void, len: usize) -> Option<&'a [u8]> {
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from.cast(), len) })
}
