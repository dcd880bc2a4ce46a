//! Documents against foreign readers of the three languages: what we write they read as the same document, what they refuse we refuse.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use millrace_schemas::contract::{Contract, Kind, Work};
use proptest::prelude::*;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value as Json, json};

fn compile(kind: Kind, text: &str) -> Contract {
    Contract::compile(kind, text, None, &mut |_| None).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn refused(kind: Kind, text: &str) -> String {
    Contract::compile(kind, text, None, &mut |_| None).unwrap_err().to_string()
}

fn fit(contract: &Contract, document: &str) -> Result<Vec<u8>, String> {
    let mut out = b"before".to_vec();
    let fits = contract.fit(document.as_bytes(), &mut out, &mut Work::default()).map_err(|misfit| misfit.to_string());
    assert!(out.starts_with(b"before"));
    if fits.is_err() {
        assert_eq!(out, b"before", "a misfit leaves nothing behind");
    }
    fits.map(|()| out.split_off(6))
}

fn misfit(contract: &Contract, document: &str) -> String {
    fit(contract, document).expect_err(document)
}

// ---- Avro ---------------------------------------------------------------------------------------------------------------------

const ORDER: &str = r#"{
  "type": "record", "name": "Order", "namespace": "acme", "fields": [
    {"name": "id", "type": "string"},
    {"name": "quantity", "type": "long"},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
    {"name": "due", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}], "default": null},
    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "DONE"]}, "default": "OPEN"},
    {"name": "note", "type": ["null", "string"]},
    {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
      {"name": "part", "type": "string"},
      {"name": "weight", "type": "double"},
      {"name": "parent", "type": ["null", "Line"], "default": null}
    ]}}, "default": []},
    {"name": "labels", "type": {"type": "map", "values": "string"}, "default": {}},
    {"name": "blob", "type": "bytes", "default": "\u00ff\u0000"}
  ]
}"#;

/// Each pair: a schema, a document written with it, and the schema it is read with; what comes out is what apache-avro makes of it.
#[test]
fn what_another_avro_schema_wrote_is_read_as_apache_avro_reads_it() {
    let record = |fields: Json| json!({"type": "record", "name": "R", "fields": fields});
    let one = |of: Json| record(json!([{"name": "a", "type": of}]));
    let symbols = |names: Json| json!({"type": "enum", "name": "E", "symbols": names, "default": "x"});
    let table = [
        (
            record(json!([{"name": "b", "type": "long"}, {"name": "a", "type": "string"}])),
            json!({"a": "t", "b": -7}),
            record(json!([{"name": "a", "type": "string"}, {"name": "b", "type": "long"}, {"name": "c", "type": "int", "default": 5}])),
        ),
        (
            record(json!([{"name": "gone", "type": {"type": "map", "values": ["null", "R"]}}, {"name": "a", "type": "int"}])),
            json!({"gone": {"k": {"gone": {}, "a": 1}}, "a": 2}),
            one(json!("long")),
        ),
        (one(json!("int")), json!({"a": 3}), one(json!("double"))),
        (one(json!("float")), json!({"a": 0.5}), one(json!("double"))),
        (one(json!("string")), json!({"a": "text"}), one(json!("bytes"))),
        (one(json!("long")), json!({"a": 9}), one(json!(["null", "string", "long"]))),
        (one(json!(["string", "null", "long"])), json!({"a": 9}), one(json!(["null", "long", "string"]))),
        (one(json!(["null", "long"])), json!({"a": 4}), one(json!("long"))),
        (one(symbols(json!(["y", "x", "z"]))), json!({"a": "y"}), one(symbols(json!(["x", "y"])))),
        (one(symbols(json!(["y", "x", "z"]))), json!({"a": "z"}), one(symbols(json!(["x", "y"])))),
        (one(json!({"type": "array", "items": "int"})), json!({"a": [1, 2, 300]}), one(json!({"type": "array", "items": "long"}))),
        (one(json!({"type": "map", "values": "int"})), json!({"a": {"k": 70000}}), one(json!({"type": "map", "values": ["null", "int"]}))),
    ];
    for (writer, document, reader) in table {
        let (writer, reader) = (writer.to_string(), reader.to_string());
        let (from, to) = (compile(Kind::Avro, &writer), compile(Kind::Avro, &reader));
        let written = fit(&from, &document.to_string()).unwrap();
        let mut ours = Vec::new();
        to.resolve(&from, &written, &mut ours).unwrap_or_else(|| panic!("{document} of {writer} cannot be read with {reader}"));
        let (w, r) = (apache_avro::Schema::parse_str(&writer).unwrap(), apache_avro::Schema::parse_str(&reader).unwrap());
        let theirs = GenericDatumReader::builder(&w).reader_schema(&r).build().unwrap().read_value(&mut &*written).unwrap();
        assert_eq!(read(&reader, &ours), theirs, "{document} of {writer} with {reader}");
        for cut in 0..written.len() {
            assert_eq!(to.resolve(&from, &written[..cut], &mut ours), None, "half of {document}");
        }
    }
}

#[test]
fn what_means_nothing_in_another_avro_schema_is_refused() {
    let one = |of: Json| compile(Kind::Avro, &json!({"type": "record", "name": "R", "fields": [{"name": "a", "type": of}]}).to_string());
    let time = |unit: &str| json!({"type": "long", "logicalType": unit});
    for (writer, document, reader) in [
        (json!("long"), json!({"a": 1}), json!("int")),
        (json!("long"), json!({"a": 1}), json!(["null", "string"])),
        (json!(["null", "long"]), json!({"a": null}), json!("long")),
        (time("timestamp-millis"), json!({"a": 1}), time("timestamp-micros")),
    ] {
        let (from, to) = (one(writer.clone()), one(reader.clone()));
        let mut out = b"before".to_vec();
        assert_eq!(to.resolve(&from, &fit(&from, &document.to_string()).unwrap(), &mut out), None, "{writer} as {reader}");
        assert_eq!(out, b"before");
    }
}

/// As apache-avro reads it.
fn read(schema: &str, bytes: &[u8]) -> Avro {
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    let mut rest = bytes;
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    value
}

fn field<'v>(record: &'v Avro, name: &str) -> &'v Avro {
    let Avro::Record(fields) = record else { panic!("{record:?} is no record") };
    &fields.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is missing")).1
}

#[test]
fn a_document_in_any_order_becomes_a_record_without_losing_a_type() {
    let order = compile(Kind::Avro, ORDER);
    assert_eq!(&*order.schema().name, "acme.Order");
    let document = r#"{"lines": [{"weight": 1, "part": "a"}, {"parent": {"part": "c", "weight": 0.1}, "part": "b", "weight": "NaN"}],
        "price": 12.5, "quantity": 9007199254740993, "id": "4711", "due": "2026-11-21T10:00:00.5+01:00", "day": "2026-11-21",
        "labels": {"x": "1", "y": "2"}, "note": null}"#;
    let value = read(ORDER, &fit(&order, document).unwrap());
    assert_eq!(field(&value, "id"), &Avro::String("4711".into()));
    assert_eq!(field(&value, "quantity"), &Avro::Long(9_007_199_254_740_993));
    assert_eq!(field(&value, "price"), &Avro::Decimal(apache_avro::Decimal::from([0x04, 0xE2])));
    assert_eq!(field(&value, "due"), &Avro::TimestampMillis(1_795_251_600_500));
    assert_eq!(field(&value, "day"), &Avro::Union(1, Box::new(Avro::Date(20_778))));
    assert_eq!(field(&value, "state"), &Avro::Enum(0, "OPEN".into()));
    assert_eq!(field(&value, "note"), &Avro::Union(0, Box::new(Avro::Null)));
    assert_eq!(field(&value, "blob"), &Avro::Bytes(vec![0xFF, 0]));
    let Avro::Array(lines) = field(&value, "lines") else { panic!("lines") };
    assert_eq!(field(&lines[0], "weight"), &Avro::Double(1.0));
    let Avro::Union(1, parent) = field(&lines[1], "parent") else { panic!("parent") };
    assert_eq!(field(parent, "part"), &Avro::String("c".into()));
    let Avro::Map(labels) = field(&value, "labels") else { panic!("labels") };
    assert_eq!(labels.len(), 2);
}

#[test]
fn a_misfit_says_where_and_what_was_found() {
    let order = compile(Kind::Avro, ORDER);
    let with = |more: &str| misfit(&order, &format!(r#"{{"id":"1","price":1,"due":0,{more}}}"#));
    assert_eq!(with(r#""quantity":1.5"#), "/quantity (byte 39): expected a long without a fraction, found 1.5");
    assert_eq!(
        with(r#""quantity":9223372036854775808"#),
        "/quantity (byte 39): expected a long which holds it exactly, found 9223372036854775808"
    );
    assert_eq!(with(r#""quantity":"1""#), "/quantity (byte 39): expected a long, found \"1\"");
    assert_eq!(with(r#""note":"x""#), "/quantity: is missing, and has no default");
    assert_eq!(with(r#""quantity":1,"color":"red""#), "byte 49: key color is not in record acme.Order");
    assert_eq!(with(r#""quantity":1,"quantity":1"#), "byte 54: key quantity is there twice");
    assert_eq!(
        with(r#""quantity":1,"lines":[{"part":"a","weight":1},{"part":"a","weight":true}]"#),
        "/lines/1/weight (byte 95): expected a double, found true"
    );
    assert_eq!(with(r#""quantity":1,"state":"LOST""#), "/state (byte 49): expected a symbol of acme.State: OPEN, DONE, found \"LOST\"");
    assert_eq!(
        misfit(&order, r#"{"id":"1","price":1.005,"due":0,"quantity":1}"#),
        "/price (byte 18): expected a decimal of 10 digits, 2 of them behind the point, found 1.005"
    );
    let long = misfit(&order, &format!(r#"{{"id":{}}}"#, "9".repeat(400)));
    assert!(long.len() < 200 && long.ends_with("999..."), "{long}");
    assert_eq!(misfit(&order, "[1"), "byte 2: is not JSON: expected `,` or `]`, found the end");
    assert_eq!(misfit(&order, "{}x"), "/id: is missing, and has no default");
}

#[test]
fn a_record_is_shown_as_the_document_it_was() {
    let order = compile(Kind::Avro, ORDER);
    let document = r#"{"id":"4711","quantity":5,"price":-0.05,"due":7,"day":null,"state":"DONE","note":"\"x\"","lines":[{"part":"a","weight":1.0,"parent":null}],"labels":{"a":"b"},"blob":"aGk="}"#;
    let value = fit(&order, document).unwrap();
    assert_eq!(order.show(&value).as_deref(), Some(document));
    assert_eq!(order.show(&value[1..]), None);
    assert_eq!(order.show(&[&value[..], b"?"].concat()), None);
}

#[test]
fn the_branch_of_a_union_is_the_one_the_value_is_written_as() {
    let branch = |union: &str, document: &str| {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"v","type":{union}}}]}}"#);
        match fit(&compile(Kind::Avro, &schema), &format!(r#"{{"v":{document}}}"#)) {
            Ok(bytes) => match field(&read(&schema, &bytes), "v") {
                Avro::Union(branch, value) => Ok((*branch, format!("{value:?}"))),
                other => panic!("{other:?}"),
            },
            Err(misfit) => Err(misfit),
        }
    };
    let ok = |branch: u32, value: &str| Ok((branch, value.to_owned()));
    assert_eq!(branch(r#"["null","int","long","double"]"#, "5"), ok(1, "Int(5)"));
    assert_eq!(branch(r#"["null","int","long","double"]"#, "5000000000"), ok(2, "Long(5000000000)"));
    assert_eq!(branch(r#"["null","int","long","double"]"#, "5.0"), ok(3, "Double(5.0)"));
    assert_eq!(branch(r#"["null","long"]"#, "5.0"), ok(1, "Long(5)"));
    assert_eq!(branch(r#"["double","long"]"#, "5"), ok(1, "Long(5)"));
    assert_eq!(branch(r#"["null","bytes","string"]"#, r#""abcd""#), ok(2, r#"String("abcd")"#));
    assert_eq!(branch(r#"["null","bytes","string"]"#, r#"{"bytes":"abcd"}"#), ok(1, "Bytes([105, 183, 29])"));
    assert_eq!(
        branch(
            r#"["null",{"type":"record","name":"A","fields":[{"name":"a","type":"long"}]},{"type":"record","name":"B","fields":[{"name":"b","type":"long"}]}]"#,
            r#"{"b":1}"#
        ),
        ok(2, r#"Record([("b", Long(1))])"#)
    );
    assert!(branch(r#"["null","long"]"#, "true").unwrap_err().contains("expected null or long, found true"));
    assert!(branch(r#"["null","long"]"#, "{}").unwrap_err().contains("expected null or long, found {}"));
}

#[test]
fn a_union_in_a_union_is_read_once() {
    let schema = r#"{"type":"record","name":"A","fields":[{"name":"x","type":["null",
        {"type":"record","name":"B","fields":[{"name":"x","type":["null","A","B"]},{"name":"p","type":"long","default":0}]},
        "A"]},{"name":"q","type":"long","default":0}]}"#;
    let contract = compile(Kind::Avro, schema);
    let nested = |depth: usize| "{\"x\":".repeat(depth) + "null" + &"}".repeat(depth);
    fit(&contract, &nested(128)).unwrap();
    read(schema, &fit(&contract, &nested(20)).unwrap());
    let wrong = "{\"x\":".repeat(120) + "true" + &"}".repeat(120);
    assert!(misfit(&contract, &wrong).contains("found true"));
}

#[test]
fn schemas_that_can_t_be_used_are_refused_with_their_place() {
    let order = ORDER.replace("\"string\"}", "\"string\"");
    assert!(refused(Kind::Avro, &order).starts_with("line 4, column "), "{}", refused(Kind::Avro, &order));
    let avro = |text: &str| refused(Kind::Avro, text);
    let record = |field: &str| format!(r#"{{"type":"record","name":"R","fields":[{field}]}}"#);
    assert_eq!(
        avro(&record(r#"{"name":"a","type":"acme.Gone"}"#)),
        "record R, field a: type acme.Gone is not there: neither declared before, nor in a file acme.Gone.avsc or Gone.avsc"
    );
    assert_eq!(
        avro(&record(r#"{"name":"a","type":"int","default":"x"}"#)),
        "record R: the default of field a does not fit: byte 0: expected an int, found \"x\""
    );
    assert_eq!(avro(&record(r#"{"name":"a","type":"int"},{"name":"a","type":"int"}"#)), "record R, field a: is there twice");
    assert_eq!(avro(&record(r#"{"name":"a","type":["int","int"]}"#)), "record R, field a: a union with two branches of one type: \"int\"");
    let endless = avro(&record(r#"{"name":"a","type":"R","default":{}}"#));
    assert!(endless.starts_with("record R: the default of field a does not fit: /a/a/") && endless.len() < 200, "{endless}");
    assert!(endless.ends_with("/a/...: defaults lead to each other without an end"), "{endless}");
    assert!(avro(&"[".repeat(10_000)).contains("recursion limit"));
    let json = |text: &str| refused(Kind::Json, text);
    assert!(json("{\n\"type\": \"object\",\n}").starts_with("line 3, column 1: is not JSON"));
    assert!(json(r#"{"type":"objekt"}"#).contains("objekt"));
    assert_eq!(json(r#"{"$ref":"gone.json"}"#), "names gone.json, which is not there");
    let proto = |text: &str| refused(Kind::Protobuf, text);
    assert!(proto("syntax = \"proto3\";\nmessage A {\n  int32 a = ;\n}").starts_with("line 3, column "));
    assert_eq!(proto("syntax = \"proto3\";"), "declares no message");
    assert_eq!(proto("syntax = \"proto3\"; import \"gone.proto\"; message A {}"), "imports gone.proto, which is not there");
    assert!(proto("syntax = \"proto3\"; message A { B b = 1; }").contains('B'));
}

#[test]
fn files_beside_a_schema_are_its_references() {
    let mut asked = Vec::new();
    let order = Contract::compile(
        Kind::Avro,
        r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"to","type":"Address"},{"name":"from","type":["null","Address"],"default":null}]}"#,
        None,
        &mut |name| {
            asked.push(name.to_owned());
            (name == "Address.avsc").then(|| r#"{"type":"record","name":"Address","namespace":"acme","fields":[{"name":"city","type":"string"}]}"#.into())
        },
    )
    .unwrap();
    assert_eq!(asked, ["acme.Address.avsc", "Address.avsc"]);
    let [reference] = &order.schema().references[..] else { panic!("{:?}", order.schema()) };
    assert_eq!((&*reference.name, &*reference.schema.name), ("acme.Address", "acme.Address"));
    assert_eq!(fit(&order, r#"{"to":{"city":"X"}}"#).unwrap(), [2, b'X', 0]);

    let machine = Contract::compile(Kind::Json, r#"{"properties":{"at":{"$ref":"at.json#/$defs/at"}}}"#, None, &mut |name| {
        (name == "at.json").then(|| r#"{"$defs":{"at":{"type":"integer"}}}"#.into())
    })
    .unwrap();
    assert!(fit(&machine, r#"{"at":1}"#).is_ok() && fit(&machine, r#"{"at":"x"}"#).is_err());
    assert_eq!(machine.schema().references.len(), 1);

    let part = Contract::compile(
        Kind::Protobuf,
        "syntax = \"proto3\"; import \"acme/at.proto\"; import \"google/protobuf/timestamp.proto\"; message Part { acme.At at = 1; google.protobuf.Timestamp t = 2; }",
        None,
        &mut |name| (name == "acme/at.proto").then(|| "syntax = \"proto3\"; package acme; message At { int32 x = 1; }".into()),
    )
    .unwrap();
    assert_eq!(part.schema().references.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["acme/at.proto"]);
    assert_eq!(fit(&part, r#"{"at":{"x":5}}"#).unwrap(), [0, 0x0A, 2, 8, 5]);
}

// ---- hostile documents --------------------------------------------------------------------------------------------------------

#[test]
fn hostile_documents_are_misfits_not_panics() {
    let contracts = [
        compile(
            Kind::Avro,
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R",{"type":"array","items":["null","double","R"]}]}]}"#,
        ),
        compile(Kind::Json, r##"{"type":"object","properties":{"a":{"anyOf":[{"$ref":"#"},{"type":"array"}]}}}"##),
        compile(Kind::Protobuf, "syntax = \"proto3\"; message R { R a = 1; repeated double b = 2; }"),
    ];
    let deep = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    let large = format!("{{\"a\":[{}1]}}", "1,".repeat(8 << 20));
    let digits = format!("{{\"a\":[{}]}}", "9".repeat(400));
    for contract in &contracts {
        for document in [&deep, &digits] {
            let said = misfit(contract, document);
            assert!(said.len() < 1000, "{said}");
        }
        // Whatever comes of it, it comes.
        let _ = fit(contract, &large);
        assert!(fit(contract, "\u{0}").is_err() && fit(contract, "").is_err());
    }
    assert!(contracts[0].fit(b"\xff", &mut Vec::new(), &mut Work::default()).is_err());
}

#[test]
fn a_schema_that_refers_to_itself_only_does_not_hang() {
    if let Ok(contract) = Contract::compile(Kind::Json, r##"{"$ref":"#"}"##, None, &mut |_| None) {
        let _ = fit(&contract, "{}");
    }
}

// ---- JSON Schema --------------------------------------------------------------------------------------------------------------

#[test]
fn json_schema_names_the_place_of_every_fault() {
    let schema = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"State","type":"object","required":["machine"],
        "properties":{"machine":{"type":"string"},"speed":{"type":"number","maximum":400},"items":{"type":"array","items":{"type":"integer"}}}}"#;
    let state = compile(Kind::Json, schema);
    let document = "{ \"machine\": \"m1\", \"speed\": 1e2 }";
    assert_eq!(fit(&state, document).unwrap(), document.as_bytes(), "the bytes pass as they are");
    assert_eq!(
        misfit(&state, r#"{"machine":"m1","speed":612}"#),
        "/speed: 612 is greater than the maximum of 400 (schema: /properties/speed/maximum)"
    );
    assert_eq!(
        misfit(&state, r#"{"speed":1,"items":[1,"x"]}"#).matches("(schema: ").count(),
        2,
        "each fault is told: {}",
        misfit(&state, r#"{"speed":1,"items":[1,"x"]}"#)
    );
    assert!(misfit(&state, "{\"machine\":").contains("is not JSON"));
    let draft7 =
        compile(Kind::Json, r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"},{"type":"integer"}]}"#);
    assert!(fit(&draft7, r#"["a",1]"#).is_ok() && fit(&draft7, "[1]").is_err());
}

// ---- Protobuf -----------------------------------------------------------------------------------------------------------------

const PART: &str = r#"
syntax = "proto3";
package acme;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Part {
  string serial = 1;
  int32 i32 = 2; int64 i64 = 3; uint32 u32 = 4; uint64 u64 = 5; sint32 s32 = 6; sint64 s64 = 7;
  fixed32 f32 = 8; fixed64 f64 = 9; sfixed32 sf32 = 10; sfixed64 sf64 = 11;
  float weight = 12; double peak = 13; bool good = 14; bytes raw = 15;
  State state = 16;
  repeated int32 counts = 17; repeated string names = 18; repeated Part children = 19;
  map<string, int64> labels = 20; map<int32, Part> slots = 21; map<bool, double> flags = 22;
  oneof result { string text = 23; int64 number = 24; }
  optional int32 maybe = 25;
  google.protobuf.Timestamp at = 26; google.protobuf.Duration took = 27;
  google.protobuf.Int64Value boxed = 28; google.protobuf.StringValue word = 29;
  google.protobuf.Struct any = 30; google.protobuf.Value value = 31; google.protobuf.ListValue list = 32;
  repeated State states = 33; repeated double peaks = 34 [packed = false];
  int32 snake_case = 35;
}
enum State { OPEN = 0; DONE = 1; LOST = -1; }
"#;

fn descriptor(text: &str, name: &str) -> prost_reflect::MessageDescriptor {
    struct One(String);
    impl protox::file::FileResolver for One {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            protox::file::File::from_source(name, &self.0)
        }
    }
    let mut resolver = protox::file::ChainFileResolver::new();
    resolver.add(protox::file::GoogleFileResolver::new());
    resolver.add(One(text.to_owned()));
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("x.proto").unwrap();
    compiler.descriptor_pool().get_message_by_name(name).unwrap()
}

fn part() -> impl Strategy<Value = Json> {
    let leaf = (any::<i32>(), any::<i64>(), any::<u64>(), any::<f32>(), any::<f64>(), ".{0,8}", proptest::collection::vec(any::<i32>(), 0..4)).prop_map(
        |(i, l, u, f, d, text, counts)| {
            let double = |d: f64| if d.is_finite() { json!(d) } else { json!("NaN") };
            json!({
                "serial": text, "i32": i, "i64": l.to_string(), "u32": i.unsigned_abs(), "u64": u, "s32": i, "s64": l, "f32": i.unsigned_abs(), "f64": u,
                "sf32": i, "sf64": l, "weight": double(f.into()), "peak": double(d), "good": i > 0, "raw": "aGk=", "state": if i > 0 { json!("DONE") } else { json!(-1) },
                "counts": counts, "names": [text, ""], "labels": {"a": l, text.clone(): 0}, "flags": {"true": 1.5}, "number": l, "at": "2026-11-21T10:00:00.123Z",
                "took": "-1.5s", "boxed": l, "word": "", "any": {"x": [1, "a", null, true, {"y": {}}]}, "value": null, "list": [1.5, []],
                "states": ["OPEN", "LOST"], "peaks": [0.0, 1.0], "snakeCase": 1,
            })
        },
    );
    (leaf.clone(), leaf.clone(), any::<bool>(), any::<i32>()).prop_map(|(mut outer, inner, with, maybe)| {
        if with {
            outer["children"] = json!([inner.clone(), {}]);
            outer["slots"] = json!({ "-7": inner });
            outer["maybe"] = json!(0);
        } else {
            outer["snake_case"] = outer.as_object_mut().unwrap().shift_remove("snakeCase").unwrap();
            outer["maybe"] = json!(maybe);
        }
        outer
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn prost_reads_the_document_that_we_wrote(document in part()) {
        let message = descriptor(PART, "acme.Part");
        let text = document.to_string();
        let ours = fit(&compile(Kind::Protobuf, PART), &text).unwrap();
        prop_assert_eq!(ours[0], 0);
        let ours = DynamicMessage::decode(message.clone(), &ours[1..]).unwrap();
        let mut theirs = serde_json::Deserializer::from_str(&text);
        let theirs = DynamicMessage::deserialize(message, &mut theirs).unwrap();
        let shown = |m: &DynamicMessage| m.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).unwrap();
        prop_assert_eq!(shown(&ours), shown(&theirs));
    }

    #[test]
    fn apache_avro_reads_the_record_that_we_wrote(
        quantity in any::<i64>(), cents in -9_999_999_999_i64..9_999_999_999, due in any::<i64>(), id in ".{0,12}", note in proptest::option::of(".{0,12}"),
        weights in proptest::collection::vec(any::<f64>().prop_filter("finite", |f| f.is_finite()), 0..5), reverse in any::<bool>(),
    ) {
        let mut document = json!({
            "id": id, "quantity": quantity, "due": due, "note": note,
            "lines": weights.iter().map(|w| json!({"part": id, "weight": w})).collect::<Vec<_>>(),
        });
        document["price"] = json!(format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100));
        if reverse {
            document = document.as_object().unwrap().iter().rev().map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>().into();
        }
        let value = read(ORDER, &fit(&compile(Kind::Avro, ORDER), &document.to_string()).unwrap());
        prop_assert_eq!(field(&value, "id"), &Avro::String(id));
        prop_assert_eq!(field(&value, "quantity"), &Avro::Long(quantity));
        prop_assert_eq!(field(&value, "due"), &Avro::TimestampMillis(due));
        let Avro::Decimal(price) = field(&value, "price") else { panic!("price") };
        let mut wide = vec![if cents < 0 { 0xFF } else { 0 }; 8];
        let bytes: Vec<u8> = price.try_into().unwrap();
        wide.extend_from_slice(&bytes);
        prop_assert_eq!(i64::from_be_bytes(wide[wide.len() - 8..].try_into().unwrap()), cents);
        let Avro::Array(lines) = field(&value, "lines") else { panic!("lines") };
        // serde_json's own reading of a double is not exact to the last bit: compared with what it wrote.
        for (line, weight) in lines.iter().zip(&weights) {
            prop_assert_eq!(field(line, "weight"), &Avro::Double(*weight));
        }
        prop_assert_eq!(lines.len(), weights.len());
    }

    #[test]
    fn any_text_fits_or_is_refused(text in "[\\[\\]{},:\"a-e0-9.+\\-nulltrue ]{0,40}") {
        for (kind, schema) in [(Kind::Avro, ORDER), (Kind::Protobuf, PART), (Kind::Json, "{\"type\":\"object\"}")] {
            let _ = fit(&compile(kind, schema), &text);
        }
    }
}

#[test]
fn protobuf_refuses_what_it_would_lose() {
    let part = compile(Kind::Protobuf, PART);
    for (document, said) in [
        (r#"{"i32":2147483648}"#, "/i32 (byte 7): expected an int32 which holds it exactly, found 2147483648"),
        (r#"{"u32":-1}"#, "/u32 (byte 7): expected a uint32 which holds it exactly, found -1"),
        (r#"{"i64":1.5}"#, "/i64 (byte 7): expected an int64 without a fraction, found 1.5"),
        (r#"{"color":1}"#, "byte 9: key color is not in message acme.Part"),
        (r#"{"text":"a","number":1}"#, "byte 21: key number and another of the same oneof"),
        (r#"{"state":"GONE"}"#, "/state (byte 9): expected a value of acme.State, found \"GONE\""),
        (r#"{"slots":{"x":{}}}"#, "/slots/x (byte 0): expected an int32 and a number, found \"x\""),
        (r#"{"children":[{},{"i32":true}]}"#, "/children/1/i32 (byte 23): expected an int32 and a number, found true"),
    ] {
        assert_eq!(misfit(&part, document), said);
    }
}

#[test]
fn the_message_s_indexes_stand_in_front() {
    let text = "syntax = \"proto3\"; message A { message B { int32 x = 1; message C { int32 y = 1; } } } message D { int32 z = 1; }";
    let indexes = |name: Option<&str>| {
        let contract = Contract::compile(Kind::Protobuf, text, name, &mut |_| None).unwrap();
        (contract.schema().name.to_string(), contract.schema().indexes.to_vec())
    };
    assert_eq!(indexes(None), ("A".into(), vec![0]));
    assert_eq!(indexes(Some("D")), ("D".into(), vec![2, 2]));
    assert_eq!(indexes(Some("A.B.C")), ("A.B.C".into(), vec![6, 0, 0, 0]));
    assert!(Contract::compile(Kind::Protobuf, text, Some("E"), &mut |_| None).is_err());
}
