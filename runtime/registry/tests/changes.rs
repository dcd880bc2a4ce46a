//! The table of changes: what each does to readers of old records (backward) and to old readers (forward).
//!
//! `fixtures/changes.json`, one change per line. `foreign` is where another registry says otherwise, with the reason; the end-to-end tests
//! hold it against one.

use millrace_registry::{Kind, Parsed, Schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Deserialize)]
struct Change {
    #[serde(deserialize_with = "kind")]
    kind: Kind,
    what: String,
    old: Value,
    new: Value,
    backward: bool,
    forward: bool,
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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

/// apache-avro's checker is another implementation of the same rules. Where it says otherwise it is known why.
#[test]
fn avro_is_judged_as_apache_avro_does_or_it_is_said_why_not() {
    use apache_avro::schema_compatibility::SchemaCompatibility;
    // It takes a union for readable that shares one branch, and compares names with their namespaces and aliases in its own way.
    let differs = |change: &Change| {
        let has_union = [&change.old, &change.new].into_iter().any(|value| value.is_array() || value.to_string().contains("\"type\":["));
        has_union || ["namespace", "alias", "bytes", "enumeration", "fixed", "decimal"].iter().any(|word| change.what.contains(word))
    };
    let mut compared = 0;
    for change in changes().iter().filter(|change| change.kind == Kind::Avro && !differs(change)) {
        let schema =
            |value: &Value| apache_avro::Schema::parse_str(&value.to_string()).unwrap_or_else(|why| panic!("{}: {why}", change.what));
        let (old, new) = (schema(&change.old), schema(&change.new));
        assert_eq!(SchemaCompatibility::can_read(&old, &new).is_ok(), change.backward, "backward: {}", change.what);
        assert_eq!(SchemaCompatibility::can_read(&new, &old).is_ok(), change.forward, "forward: {}", change.what);
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
}

/// Whatever a change does, a schema reads what it wrote itself.
mod itself {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_itself_and_survives_the_loss_of_any_character(row in 0usize..1_000, cut in 0usize..2_000) {
            let all = changes();
            let change = &all[row % all.len()];
            let whole = text(change.kind, &change.new);
            let schema = Parsed::parse(&Schema::new(change.kind, whole.clone()), &[]).unwrap();
            prop_assert!(schema.cannot_read(&schema).unwrap().is_empty());
            // A damaged text is refused or means something; it never panics.
            let mut damaged: Vec<char> = whole.chars().collect();
            damaged.remove(cut % damaged.len());
            if let Ok(other) = Parsed::parse(&Schema::new(change.kind, damaged.into_iter().collect::<String>()), &[]) {
                let _ = (schema.cannot_read(&other), other.cannot_read(&schema));
            }
        }
    }
}
