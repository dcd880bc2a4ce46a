//! What must bear any bytes: schemas of the three kinds, and records of the topic.

use crate::embedded;
use crate::parsed::Parsed;
use crate::schema::{Kind, Schema};

/// The first byte chooses the kind; a zero byte between two texts makes them two versions of one schema, which are compared.
pub fn fuzz_schema(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*first) % Kind::ALL.len()];
    let mut texts = rest.splitn(2, |byte| *byte == 0).map(String::from_utf8_lossy);
    let parse = |text: &str| Parsed::parse(&Schema::new(kind, text), &[]).ok();
    let old = texts.next().and_then(|text| parse(&text));
    if let Some(old) = &old {
        let text = old.canonical(true);
        assert!(parse(&text).is_some(), "what was written out can't be read: {text}");
    }
    let new = texts.next().and_then(|text| parse(&text));
    if let (Some(old), Some(new)) = (old, new) {
        let _ = (old.cannot_read(&new), new.cannot_read(&old));
    }
}

/// A zero byte between key and value.
pub fn fuzz_record(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    embedded::bears(parts.next().unwrap_or_default(), parts.next());
}
