//! The table of changes: what each does to readers of old records (backward) and to old readers (forward).
//!
//! `fixtures/changes.json`, one change per line. `foreign` is where another registry says otherwise, with the reason; the end-to-end tests
//! hold it against one.

use millrace_registry::{Kind, Parsed, Schema};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Change {
    kind: Kind,
    what: String,
    old: Value,
    new: Value,
    backward: bool,
    forward: bool,
}

fn text(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Protobuf, Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}

fn parsed(change: &Change, value: &Value) -> Parsed {
    Parsed::parse(&Schema::new(change.kind, text(change.kind, value)), &[]).unwrap_or_else(|why| panic!("{}: {why}", change.what))
}

fn changes() -> Vec<Change> {
    serde_json::from_str(include_str!("../fixtures/changes.json")).expect("the table is JSON")
}

#[test]
fn every_change_of_the_table_is_judged_as_it_says() {
    let mut wrong = Vec::new();
    for change in changes() {
        let (old, new) = (parsed(&change, &change.old), parsed(&change, &change.new));
        let backward = new.cannot_read(&old).unwrap();
        let forward = old.cannot_read(&new).unwrap();
        if (backward.is_empty(), forward.is_empty()) != (change.backward, change.forward) {
            wrong.push(format!("{} {}: backward {backward:?}, forward {forward:?}", change.kind, change.what));
        }
        for difference in backward.iter().chain(&forward) {
            assert!(difference.path.starts_with('/') || difference.path.starts_with("#/"), "{}: {difference:?}", change.what);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_holds_all_kinds_and_enough_of_each() {
    for kind in Kind::ALL {
        assert!(changes().iter().filter(|change| change.kind == kind).count() >= 50, "{kind}");
    }
}

#[test]
fn a_schema_is_what_it_was_after_it_was_written_out() {
    for change in changes() {
        for value in [&change.old, &change.new] {
            let once = parsed(&change, value);
            for normalized in [false, true] {
                let text = once.canonical(normalized);
                let again =
                    Parsed::parse(&Schema::new(change.kind, &*text), &[]).unwrap_or_else(|why| panic!("{}: {why}: {text}", change.what));
                assert_eq!(once.identity(normalized), again.identity(normalized), "{}", change.what);
                assert_eq!(again.canonical(normalized), text, "{}", change.what);
                assert!(again.cannot_read(&once).unwrap().is_empty() && once.cannot_read(&again).unwrap().is_empty(), "{}", change.what);
            }
        }
    }
}
