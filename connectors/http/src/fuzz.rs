//! What servers and senders say, as bytes that must not panic.

use crate::split::{Format, split};
use crate::stream::event::{Events, Found};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// A stream of server-sent events, cut into pieces as long as the first byte says: the same events as in one piece.
pub fn fuzz_http_events(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let read = |cut: usize| {
        let mut events = Events::new(64, String::new());
        let mut found = Vec::new();
        for piece in rest.chunks(cut) {
            events.push(piece, |one| {
                found.push(match one {
                    Found::Event(event) => Some(event.clone()),
                    Found::TooLarge => None,
                });
            });
        }
        (found, events.last_id().to_owned(), events.retry())
    };
    assert_eq!(read(usize::from(*first).max(1)), read(rest.len().max(1)));
}

/// The body of a post; the first byte says its kind, and whether the attributes of a CloudEvent stand in headers.
pub fn fuzz_http_post(bytes: &[u8]) {
    const KINDS: [&str; 5] =
        ["application/json", "application/x-ndjson", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"];
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(KINDS[usize::from(*first) % KINDS.len()]));
    if first & 0x80 != 0 {
        for (name, value) in ["ce-id", "ce-source", "ce-type", "ce-specversion"].into_iter().zip(rest.split(|byte| *byte == b'\n')) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    for takes_lists in [false, true] {
        if let Ok(records) = split(Format::Auto, takes_lists, &headers, rest) {
            for record in records {
                assert!(rest.get(record.at).is_some(), "a record lies in its body");
            }
        }
    }
}
