//! What leaves of a value in Protobuf under rules, as another library writes and reads it.

use millrace_config::{Node, Problems, Reason};
use millrace_kafka_sink::fields::messages::{message_at, split};
use millrace_kafka_sink::fields::protobuf::Projection;
use millrace_kafka_sink::fields::{Changer, FieldRules, HashKey, Keys, Rules, json};
use millrace_registry::protobuf::Protobuf;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, ReflectMessage, Value};
use std::collections::HashMap;

fn parse<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    let mut problems = Problems::new();
    let parsed = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
    parsed.unwrap_or_else(|| panic!("{}", problems.render()))
}

fn rules(yaml: &str) -> Rules {
    Rules::compile("orders", &parse::<FieldRules>(yaml), &mut Problems::new())
}

fn keys() -> Keys {
    Keys::compile(&parse::<Vec<HashKey>>("[{id: a, secret: 0123456789abcdef}]"), &mut Problems::new())
}

fn message(text: &str, references: &[(&str, &str)], path: &[usize]) -> MessageDescriptor {
    let file = Protobuf::parse(text, references).unwrap_or_else(|error| panic!("{error}: {text}")).descriptor().unwrap();
    message_at(&file, path).unwrap_or_else(|| panic!("no message {path:?} in {text}"))
}

/// What leaves of a message, read by the schema that it leaves with, and how many fields were missed.
fn leaves(rules_of: &str, of: &MessageDescriptor, value: &[u8]) -> Result<(DynamicMessage, u64), Reason> {
    let (rules, keys) = (rules(rules_of), keys());
    let projection = Projection::new(of.clone(), &rules.fields)?;
    let mut out = Vec::new();
    let missed = projection.apply(&Changer { topic: "orders", key: keys.at(0) }, value, &mut out)?;
    let path = split(&projection.indexes).expect("indexes").0;
    let there = message(&projection.schema, &[], &path);
    let read = DynamicMessage::decode(there, &out[..]).unwrap_or_else(|error| panic!("{error}: {}", projection.schema));
    assert_eq!(read.unknown_fields().count(), 0, "{}", projection.schema);
    Ok((read, missed))
}

fn text(message: &DynamicMessage, name: &str) -> String {
    let field = message.get_field_by_name(name).unwrap_or_else(|| panic!("no {name} in {}", message.descriptor().full_name()));
    field.as_str().unwrap_or_else(|| panic!("{name} is no text: {field:?}")).to_owned()
}

fn sub<'m>(message: &'m DynamicMessage, name: &str) -> std::borrow::Cow<'m, Value> {
    message.get_field_by_name(name).unwrap_or_else(|| panic!("no {name} in {}", message.descriptor().full_name()))
}

const ORDER: &str = r#"syntax = "proto3";
package acme;
import "google/protobuf/timestamp.proto";
message Order {
  string id = 1;
  int64 quantity = 2;
  Person operator = 3;
  repeated Person helpers = 4;
  map<string, string> labels = 5;
  repeated sint32 codes = 6;
  State state = 7;
  google.protobuf.Timestamp at = 8;
  oneof cause { string note = 9; int32 alarm = 10; }
  optional bool rush = 11;
  Order follows = 12;
  message Person { string name = 1; int32 shift = 2; enum Badge { NONE = 0; GOLD = 1; } Badge badge = 3; }
  enum State { UNKNOWN = 0; DONE = 1; }
}
"#;

fn order() -> DynamicMessage {
    let of = message(ORDER, &[], &[0]);
    let person_of = of.child_messages().find(|one| one.name() == "Person").unwrap();
    let person = |name: &str, shift: i32| {
        let mut person = DynamicMessage::new(person_of.clone());
        person.set_field_by_name("name", Value::String(name.into()));
        person.set_field_by_name("shift", Value::I32(shift));
        person.set_field_by_name("badge", Value::EnumNumber(1));
        Value::Message(person)
    };
    let mut order = DynamicMessage::new(of.clone());
    order.set_field_by_name("id", Value::String("4711".into()));
    order.set_field_by_name("quantity", Value::I64(-3));
    order.set_field_by_name("operator", person("Ann", 2));
    order.set_field_by_name("helpers", Value::List(vec![person("Bob", 1), person("Cid", 3)]));
    let labels = [("line", "7"), ("nick", "Annie")].map(|(key, value)| (MapKey::String(key.into()), Value::String(value.into())));
    order.set_field_by_name("labels", Value::Map(HashMap::from(labels)));
    order.set_field_by_name("codes", Value::List(vec![Value::I32(-1), Value::I32(70_000)]));
    order.set_field_by_name("state", Value::EnumNumber(1));
    order.set_field_by_name("alarm", Value::I32(17));
    order.set_field_by_name("rush", Value::Bool(false));
    let mut before = DynamicMessage::new(of);
    before.set_field_by_name("id", Value::String("4710".into()));
    order.set_field_by_name("follows", Value::Message(before));
    order
}

/// A field that no schema here knows, of each form there is.
fn unknown() -> Vec<u8> {
    [
        &[0x82, 0x7D, 0x03][..],
        b"Ann",
        &[0x88, 0x7D, 0x2A],
        &[0x95, 0x7D, 1, 2, 3, 4],
        &[0x99, 0x7D, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x9B, 0x7D, 0x9C, 0x7D],
    ]
    .concat()
}

#[test]
fn what_is_allowed_leaves_and_new_fields_stay_at_home_wherever_they_are() {
    let mut order = order();
    let of = order.descriptor();
    let mut value = order.encode_to_vec();
    value.extend(unknown());
    // Within a message, too.
    let person_of = of.child_messages().find(|one| one.name() == "Person").unwrap();
    let person = DynamicMessage::decode(person_of, &[&b"\x0a\x03Dot"[..], &unknown()].concat()[..]).unwrap();
    order.set_field_by_name("operator", Value::Message(person));
    for (value, name) in [(value, "Ann"), (order.encode_to_vec(), "Dot")] {
        let (left, missed) = leaves("{allow: [id, quantity, operator, at, state]}", &of, &value).unwrap();
        assert_eq!(missed, 0);
        let fields: Vec<String> = left.fields().map(|(field, _)| field.name().to_owned()).collect();
        assert_eq!(fields, ["id", "quantity", "operator", "state"]);
        assert_eq!((text(&left, "id"), sub(&left, "quantity").as_i64()), ("4711".into(), Some(-3)));
        let operator = sub(&left, "operator");
        assert_eq!(text(operator.as_message().unwrap(), "name"), name);
    }
    let (left, _) = leaves("{drop: [labels]}", &of, &order.encode_to_vec()).unwrap();
    assert!(left.get_field_by_name("labels").is_none());
    assert_eq!(sub(&left, "codes").as_list().map(<[Value]>::len), Some(2));
    assert_eq!(sub(&left, "alarm").as_i32(), Some(17));
    assert_eq!(left.get_field_by_name("rush").and_then(|rush| rush.as_bool()), Some(false));
    assert!(left.has_field_by_name("rush"));
    assert_eq!(text(sub(&left, "follows").as_message().unwrap(), "id"), "4710");
}

#[test]
fn what_is_masked_and_hashed_is_a_text_as_it_is_in_json() {
    let of = order().descriptor();
    let yaml = "{mask: [/operator/name, codes, rush], hash: [quantity, id, note], pseudonym: [/operator/badge, /labels/nick]}";
    let (left, missed) = leaves(yaml, &of, &order().encode_to_vec()).unwrap();
    assert_eq!(missed, 0);
    let json_of = |value: &str| {
        let (rules, keys) = (rules(yaml), keys());
        let mut out = Vec::new();
        json::apply(&rules.fields, &Changer { topic: "orders", key: keys.at(0) }, value.as_bytes(), &mut out).unwrap();
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()
    };
    let same = json_of(r#"{"quantity": -3, "id": "4711", "operator": {"name": "Ann", "badge": "GOLD"}, "labels": {"nick": "Annie"}}"#);
    assert_eq!(text(&left, "quantity"), same["quantity"].as_str().unwrap());
    assert_eq!(text(&left, "id"), same["id"].as_str().unwrap());
    let operator = sub(&left, "operator");
    let operator = operator.as_message().unwrap();
    assert_eq!(text(operator, "name"), "***");
    assert_eq!(text(operator, "badge"), same["operator"]["badge"].as_str().unwrap());
    assert_eq!(sub(operator, "shift").as_i32(), Some(2));
    // Of the same type, without a rule of its own.
    let helpers = sub(&left, "helpers");
    assert_eq!(helpers.as_list().unwrap()[0].as_message().map(|helper| text(helper, "name")), Some("Bob".into()));
    assert_eq!((text(&left, "codes"), text(&left, "rush")), ("***".into(), "***".into()));
    let labels = sub(&left, "labels");
    let label = |key: &str| labels.as_map().unwrap()[&MapKey::String(key.into())].as_str().unwrap().to_owned();
    assert_eq!((label("line"), label("nick")), ("7".into(), same["labels"]["nick"].as_str().unwrap().into()));
    // A zero is not written, and is a value like any other.
    let (left, _) = leaves(yaml, &of, b"").unwrap();
    assert_eq!(text(&left, "quantity"), json_of(r#"{"quantity": 0}"#)["quantity"].as_str().unwrap());
    assert!(!left.has_field_by_name("note") && !left.has_field_by_name("codes") && !left.has_field_by_name("rush"));
}

#[test]
fn messages_of_other_packages_and_of_proto2_leave_with_a_schema_that_compiles() {
    let common =
        r#"syntax = "proto3"; package acme.common; message Order { string id = 1; Kind kind = 2; } enum Kind { UNKNOWN = 0; NEW = 1; }"#;
    let own = r#"syntax = "proto2"; package acme; import "common.proto";
        message Shell { message Order { required int32 wage = 1; optional acme.common.Order order = 2; optional Kind kind = 3 [default = B]; } }
        message Other { optional string x = 1; }
        enum Kind { A = 1; B = 2; }"#;
    let of = message(own, &[("common.proto", common)], &[0, 0]);
    let value = b"\x08\x07\x12\x05\x0a\x01x\x10\x01\x18\x01";
    let (left, missed) = leaves("{drop: [wage], mask: [/order/id, gone]}", &of, value).unwrap();
    assert_eq!(missed, 1);
    assert!(left.get_field_by_name("wage").is_none());
    assert_eq!(sub(&left, "kind").as_enum_number(), Some(1));
    let order = sub(&left, "order");
    let order = order.as_message().unwrap();
    assert_eq!((text(order, "id"), sub(order, "kind").as_enum_number()), ("***".into(), Some(1)));
    assert_eq!(left.descriptor().full_name(), "acme.Shell.Order");
}

#[test]
fn what_is_no_such_message_stays_at_home_and_harms_nothing() {
    let of = order().descriptor();
    let good = order().encode_to_vec();
    for bad in
        [&b"\x00"[..], b"\x0a\x05abc", b"\x0b", b"\x0c", b"\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &good[..good.len() - 1]]
    {
        assert!(leaves("{allow: [id]}", &of, bad).is_err(), "{bad:?}");
    }
    // Another type than the schema says is a field that nobody knows.
    let (left, _) = leaves("{allow: [id]}", &of, b"\x08\x01").unwrap();
    assert_eq!(left.fields().count(), 0);
    let deep = (0..10_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut outer = vec![0x62];
        prost_reflect::prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend(inner);
        outer
    });
    assert!(leaves("{drop: [id]}", &of, &deep).is_err());
    let mut random = fastrand::Rng::with_seed(7);
    let rules = rules("{mask: [/operator/name, codes], hash: [quantity], allow: [helpers, /labels/nick]}");
    let projection = Projection::new(of.clone(), &rules.fields).unwrap();
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut out = Vec::new();
        let _ = projection.apply(&Changer { topic: "orders", key: None }, &bytes, &mut out);
    }
    for bytes in [&b""[..], b"\x01", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x06\x02"] {
        assert_eq!(split(bytes), None, "{bytes:?}");
    }
    assert_eq!(split(b"\x00x"), Some((vec![0], &b"x"[..])));
    assert_eq!(split(b"\x04\x02\x00x"), Some((vec![1, 0], &b"x"[..])));
}
