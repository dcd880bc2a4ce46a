//! What leaves of a value under rules: the same of JSON and of Avro, as Apache Avro's own library writes and reads it.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use millrace_config::{Node, Problems};
use millrace_kafka_sink::fields::avro::Projection;
use millrace_kafka_sink::fields::{Changer, FieldRules, HashKey, How, Keys, Rules, json};
use millrace_schemas::avsc::Avsc;
use serde_json::{Value, json};

fn rules(yaml: &str) -> Result<Rules, String> {
    let mut problems = Problems::new();
    let config: Option<FieldRules> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
    let rules = config.map(|config| Rules::compile("orders", &config, &mut problems));
    if problems.has_errors() { Err(problems.render()) } else { Ok(rules.expect("rules without problems")) }
}

fn keys(yaml: &str) -> Result<Keys, String> {
    let mut problems = Problems::new();
    let config: Option<Vec<HashKey>> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
    let keys = Keys::compile(&config.unwrap_or_default(), &mut problems);
    if problems.has_errors() { Err(problems.render()) } else { Ok(keys) }
}

const KEY: &str = "[{id: a, secret: 0123456789abcdef}]";

/// What leaves of a JSON text, and how many fields were missed.
fn leaves(rules: &str, value: &str) -> Result<(Value, u64), String> {
    let (rules, keys) = (self::rules(rules)?, keys(KEY)?);
    let changer = Changer { topic: "orders", key: keys.at(0) };
    let mut out = Vec::new();
    let missed = json::apply(&rules.fields, &changer, value.as_bytes(), &mut out)?;
    Ok((serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out))), missed))
}

/// What leaves of an Avro value, written and read by Apache's library, and how many fields were missed.
fn leaves_avro(rules: &str, schema: &str, value: Avro) -> Result<(Value, u64), String> {
    let (rules, keys) = (self::rules(rules)?, keys(KEY)?);
    let changer = Changer { topic: "orders", key: keys.at(0) };
    let foreign = apache_avro::Schema::parse_str(schema).unwrap();
    let written = GenericDatumWriter::builder(&foreign).build().and_then(|writer| writer.write_value_to_vec(value)).unwrap();
    let projection = Projection::new(Avsc::parse(schema, &[], None).map_err(|error| error.to_string())?, &rules.fields)?;
    let mut out = Vec::new();
    let missed = projection.apply(&changer, &written, &mut out)?;
    let schema = apache_avro::Schema::parse_str(&projection.schema).unwrap_or_else(|error| panic!("{error}: {}", projection.schema));
    let mut rest = &out[..];
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let read = reader.read_value(&mut rest).unwrap_or_else(|error| panic!("{error}: {}", projection.schema));
    assert!(rest.is_empty(), "{rest:?}");
    Ok((Value::try_from(read).unwrap(), missed))
}

fn text(text: &str) -> Avro {
    Avro::String(text.into())
}

fn record(fields: &[(&str, Avro)]) -> Avro {
    Avro::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

const ORDER: &str = r#"{"type": "record", "name": "Order", "namespace": "acme", "fields": [
    {"name": "ID", "type": "string"}, {"name": "quantity", "type": "long"},
    {"name": "operator", "type": ["null", {"type": "record", "name": "Person", "fields": [{"name": "name", "type": "string"}, {"name": "shift", "type": "int"}]}]}
]}"#;
const GROWN: &str = r#"{"type": "record", "name": "Order", "namespace": "acme", "fields": [
    {"name": "margin", "type": "double"}, {"name": "ID", "type": "string"}, {"name": "quantity", "type": "long"},
    {"name": "operator", "type": ["null", {"type": "record", "name": "Person", "fields": [{"name": "badge", "type": "bytes"}, {"name": "name", "type": "string"}, {"name": "shift", "type": "int"}]}]}
]}"#;

#[test]
fn a_new_field_stays_at_home_in_json_and_in_avro() {
    let rules = "{allow: [ID, quantity, /operator/shift]}";
    let expected = json!({"ID": "4711", "quantity": 3, "operator": {"shift": 2}});
    for value in [
        r#"{"ID": "4711", "quantity": 3, "operator": {"name": "Ann", "shift": 2}}"#,
        r#"{"margin": 0.31, "ID": "4711", "quantity": 3, "operator": {"badge": "x", "name": "Ann", "shift": 2, "since": {"a": [1, {}]}}, "z": []}"#,
    ] {
        assert_eq!(leaves(rules, value), Ok((expected.clone(), 0)));
    }
    let person = |more: &[(&str, Avro)]| {
        let fields: Vec<_> = more.iter().cloned().chain([("name", text("Ann")), ("shift", Avro::Int(2))]).collect();
        Avro::Union(1, Box::new(record(&fields)))
    };
    let order = record(&[("ID", text("4711")), ("quantity", Avro::Long(3)), ("operator", person(&[]))]);
    assert_eq!(leaves_avro(rules, ORDER, order), Ok((expected.clone(), 0)));
    let badge = person(&[("badge", Avro::Bytes(vec![1]))]);
    let grown = record(&[("margin", Avro::Double(0.31)), ("ID", text("4711")), ("quantity", Avro::Long(3)), ("operator", badge)]);
    assert_eq!(leaves_avro(rules, GROWN, grown), Ok((expected, 0)));
}

#[test]
fn an_equal_value_has_an_equal_hash_in_both_and_nothing_else_has() {
    let rules = "{hash: [/operator/name, ID], pseudonym: [quantity], mask: [/operator/shift]}";
    let of = |id: &str, quantity: i64| {
        let value = format!(r#"{{"ID": "{id}", "quantity": {quantity}, "operator": {{"name": "Ann", "shift": 2}}}}"#);
        leaves(rules, &value).unwrap().0
    };
    let one = of("Ann", 3);
    assert_eq!(one, of("Ann", 3));
    assert_ne!(one["ID"], of("Bob", 3)["ID"]);
    // The same text in another field is another hash.
    assert_ne!(one["ID"], one["operator"]["name"]);
    assert_eq!(one["ID"].as_str().map(str::len), Some(64));
    assert!(one["quantity"].as_str().is_some_and(|name| name.starts_with("p-")), "{one}");
    assert_eq!(one["operator"]["shift"], "***");
    let person = record(&[("name", text("Ann")), ("shift", Avro::Int(2))]);
    let order = record(&[("ID", text("Ann")), ("quantity", Avro::Long(3)), ("operator", Avro::Union(1, Box::new(person)))]);
    assert_eq!(leaves_avro(rules, ORDER, order), Ok((one.clone(), 0)));
    let elsewhere = leaves("{pseudonym: [ID]}", r#"{"ID": 3}"#).unwrap().0;
    assert_eq!(elsewhere["ID"], one["quantity"], "a pseudonym joins");
}

#[test]
fn null_stays_null_and_what_is_not_there_is_counted() {
    let rules = "{mask: [ID, /operator/name], hash: [badge]}";
    assert_eq!(leaves(rules, r#"{"ID": null, "operator": null}"#), Ok((json!({"ID": null, "operator": null}), 2)));
    assert_eq!(leaves(rules, "{}"), Ok((json!({}), 3)));
    let order = record(&[("ID", text("1")), ("quantity", Avro::Long(3)), ("operator", Avro::Union(0, Box::new(Avro::Null)))]);
    assert_eq!(leaves_avro(rules, ORDER, order), Ok((json!({"ID": "***", "quantity": 3, "operator": null}), 1)));
}

#[test]
fn no_spelling_and_no_other_shape_lets_a_value_out() {
    let rules = rules("{mask: [/operator/name]}").unwrap();
    for (value, expected) in [
        // A key in other letters, a key twice, a list where one was expected, and fields where there are none.
        (r#"{"\u006fperator": {"n\u0061me": "Ann"}}"#, r#"{"operator":{"name":"***"}}"#),
        (r#"{"operator": {"name": "Ann", "name": "Ann"}}"#, r#"{"operator":{"name":"***","name":"***"}}"#),
        (
            r#"{"operator": [{"name": "Ann"}, "Ann", null, [{"name": ["Ann"]}]], "a": 1.50}"#,
            r#"{"operator":[{"name":"***"},null,[{"name":"***"}]],"a":1.50}"#,
        ),
        (r#"{"operator": "Ann", "a": 1e400}"#, r#"{"a":1e400}"#),
    ] {
        let mut out = Vec::new();
        json::apply(&rules.fields, &Changer { topic: "orders", key: None }, value.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    for value in ["", "\"Ann\"", "[{\"operator\": {}}]", "{\"operator\": {\"name\": \"Ann\"}", "\u{1}", "{} {}"] {
        assert!(json::apply(&rules.fields, &Changer { topic: "orders", key: None }, value.as_bytes(), &mut Vec::new()).is_err(), "{value}");
    }
}

#[test]
fn lists_maps_and_types_that_are_used_twice_keep_a_valid_schema() {
    let schema = r#"{"type": "record", "name": "Shift", "namespace": "acme", "fields": [
        {"name": "lead", "type": {"type": "record", "name": "Person", "fields": [{"name": "name", "type": "string"}, {"name": "grade", "type": {"type": "enum", "name": "Grade", "symbols": ["A", "B"]}}]}},
        {"name": "crew", "type": {"type": "array", "items": "Person"}, "default": []},
        {"name": "guest", "type": ["null", "Person"], "default": null},
        {"name": "labels", "type": {"type": "map", "values": "string"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "photo", "type": ["null", {"type": "fixed", "name": "Photo", "size": 2}], "default": null}
    ]}"#;
    let person = |name: &str, grade: u32| record(&[("name", text(name)), ("grade", Avro::Enum(grade, ["A", "B"][grade as usize].into()))]);
    let labels = [("site".to_owned(), text("x")), ("operator".to_owned(), text("Ann"))];
    let shift = record(&[
        ("lead", person("Ann", 0)),
        ("crew", Avro::Array(vec![person("Bob", 1), person("Cyd", 0)])),
        ("guest", Avro::Union(1, Box::new(person("Dan", 1)))),
        ("labels", Avro::Map(labels.into_iter().collect())),
        ("at", Avro::TimestampMillis(1_700_000_000_000)),
        ("photo", Avro::Union(1, Box::new(Avro::Fixed(2, vec![1, 2])))),
    ]);
    let (left, missed) = leaves_avro("{drop: [/crew/name, /labels/operator, photo], mask: [/lead/name]}", schema, shift.clone()).unwrap();
    assert_eq!(left["lead"], json!({"name": "***", "grade": "A"}));
    assert_eq!(left["crew"], json!([{"grade": "B"}, {"grade": "A"}]));
    assert_eq!((&left["guest"], &left["labels"], missed), (&json!({"name": "Dan", "grade": "B"}), &json!({"site": "x"}), 0));
    assert!(left.get("photo").is_none(), "{left}");
    let (left, _) = leaves_avro("{mask: [crew, guest, photo], pseudonym: [/labels/operator]}", schema, shift).unwrap();
    assert_eq!((&left["crew"], &left["guest"], &left["photo"]), (&json!("***"), &json!("***"), &json!("***")));
    assert!(left["labels"]["operator"].as_str().is_some_and(|name| name.starts_with("p-")), "{left}");
}

#[test]
fn bytes_that_are_no_such_record_stay_at_home_and_break_nothing() {
    let rules = rules("{allow: [ID], mask: [/operator/name]}").unwrap();
    let projection = Projection::new(Avsc::parse(ORDER, &[], None).unwrap(), &rules.fields).unwrap();
    let changer = Changer { topic: "orders", key: None };
    let mut random = fastrand::Rng::with_seed(17);
    let mut taken = 0;
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.usize(..24)).map(|_| if random.bool() { random.u8(..) } else { random.u8(..5) }).collect();
        taken += usize::from(projection.apply(&changer, &bytes, &mut Vec::new()).is_ok());
        let _ = json::apply(&rules.fields, &changer, &bytes, &mut Vec::new());
    }
    assert!((1..10_000).contains(&taken), "{taken}");
    assert!(projection.apply(&changer, b"\x02a\x02\x00 and more", &mut Vec::new()).is_err());
}

#[test]
fn a_key_holds_from_its_day_on_by_the_records_own_time() {
    let keys = keys("[{id: old, secret: 0123456789abcdef}, {id: new, secret: fedcba9876543210, from: 2027-01-01}]").unwrap();
    let new_year = 1_798_761_600_000;
    let id = |at| keys.at(at).map(|key| key.id.to_owned());
    assert_eq!((id(0), id(new_year - 1), id(new_year)), (Some("old".into()), Some("old".into()), Some("new".into())));
    let hash = |at| {
        let mut out = Vec::new();
        Changer { topic: "t", key: keys.at(at) }.change(How::Hash, "a", b"x", &mut out);
        out
    };
    assert_ne!(hash(0), hash(new_year));
}

#[test]
fn rules_that_contradict_each_other_and_keys_that_can_be_guessed_are_refused() {
    for (yaml, expected) in [
        ("{drop: [a], mask: [a]}", "two rules that contradict"),
        ("{drop: [a], mask: [/a/b]}", "which stays at home"),
        ("{mask: [a], hash: [/a/b]}", "which has a rule of its own"),
        ("{mask: [/a//b]}", "names no field"),
        ("{maks: [a]}", "did you mean `mask`"),
    ] {
        let problems = rules(yaml).err().unwrap_or_else(|| panic!("{yaml} was taken"));
        assert!(problems.contains(expected), "{expected} is not in\n{problems}");
    }
    for (yaml, expected) in [
        ("[{id: a, secret: short}]", "less than 16 characters"),
        ("[{id: a, secret: 0123456789abcdef, from: 2027-01-01}]", "holds from the beginning"),
        ("[{id: a, secret: 0123456789abcdef}, {id: b, secret: 0123456789abcdef, from: soon}]", "is no day"),
        ("[{id: a, secret: 0123456789abcdef}, {id: a, secret: 0123456789abcdef, from: 2027-01-01}]", "two hash keys"),
    ] {
        let problems = keys(yaml).err().unwrap_or_else(|| panic!("{yaml} was taken"));
        assert!(problems.contains(expected), "{expected} is not in\n{problems}");
    }
}
