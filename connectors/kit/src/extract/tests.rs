//! What is found in payloads and rows, as a person would write it.

use super::*;
use crate::time::{Clock, TimeConfig};
use millrace_config::Reason;
use millrace_config::{Node as Yaml, Problems};
use millrace_schemas::{Array, Kind, Micros, StatusCode, Value};
use proptest::prelude::*;
use serde_json::Value as Json;

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).unwrap()
}

fn clock(yaml: &str) -> Clock {
    let mut problems = Problems::new();
    let config: TimeConfig = Yaml::from_yaml(yaml, &mut problems).unwrap().parse(&mut problems).unwrap();
    Clock::compile(&config, &mut problems).unwrap()
}

fn plain(pointers: &[&str]) -> Extraction {
    let pointers: Vec<_> = pointers.iter().map(|text| pointer(text)).collect();
    Extraction::new(pointers.iter().map(|pointer| (pointer, None)), None, None)
}

/// What was found, as a person would write it: sample, leaf, value, status.
fn show(batch: &Batch, into: &Extracted) -> Vec<String> {
    let value = |value: Value| match value {
        Value::Text(span) => format!("{:?}", batch.text_of(span)),
        Value::Struct(span) => format!("json {}", batch.text_of(span)),
        Value::Array(kind, span) => {
            let array = Array::read(kind, span, &batch.heap).unwrap();
            match kind {
                Kind::Bool => format!("{:?}", array.bools().collect::<Vec<_>>()),
                Kind::Int => format!("{:?}", array.words().map(i64::from_le_bytes).collect::<Vec<_>>()),
                Kind::UInt => format!("u{:?}", array.words().map(u64::from_le_bytes).collect::<Vec<_>>()),
                Kind::Double => format!("{:?}", array.words().map(f64::from_le_bytes).collect::<Vec<_>>()),
                _ => format!("{:?}", array.blobs().map(|blob| std::str::from_utf8(blob).unwrap()).collect::<Vec<_>>()),
            }
        }
        other => format!("{other:?}"),
    };
    let show = |found: Found<'_>| {
        let status = if found.status.is_good() { String::new() } else { format!(" {:?}", found.status) };
        format!(
            "{}{} {}{status}",
            found.sample,
            if found.leaf.is_empty() { "".into() } else { format!("/{}", found.leaf) },
            value(found.value)
        )
    };
    into.iter().map(show).collect()
}

fn read(extraction: &Extraction, payload: &str) -> Result<Vec<String>, Reason> {
    let (mut batch, mut into) = (Batch::new(), Extracted::default());
    extraction.read(payload.as_bytes(), &mut batch, &mut into)?;
    Ok(show(&batch, &into))
}

fn value(json: &str) -> String {
    read(&plain(&["/v"]), &format!("{{\"v\":{json}}}")).unwrap().join(", ")
}

#[test]
fn values_keep_their_types() {
    for (json, found) in [
        ("5", "0 Int(5)"),
        ("5.0", "0 Double(5.0)"),
        ("-0.0", "0 Double(-0.0)"),
        ("9223372036854775808", "0 UInt(9223372036854775808)"),
        ("true", "0 Bool(true)"),
        ("\"NaN\"", "0 \"NaN\""),
        ("\"l\\u00e4uft\"", "0 \"läuft\""),
        ("null", "0 Null bad 0x809B0000"),
        ("[1,2]", "0 [1, 2]"),
        ("[1,2.5]", "0 [1.0, 2.5]"),
        ("[1,18446744073709551615]", "0 u[1, 18446744073709551615]"),
        ("[\"a\",\"b\"]", "0 [\"a\", \"b\"]"),
        ("[true]", "0 [true]"),
        ("[]", "0 []"),
        ("[1,null]", "0 json [1,null]"),
        ("[1, \"a\"]", "0 json [1, \"a\"]"),
        ("[9007199254740993, 0.5]", "0 json [9007199254740993, 0.5]"),
        ("[-1,18446744073709551615]", "0 json [-1,18446744073709551615]"),
        ("[[1,2],[3,4]]", "0 json [[1,2],[3,4]]"),
    ] {
        assert_eq!(value(json), found, "{json}");
    }
}

#[test]
fn a_number_that_nothing_holds_is_bad_and_says_why() {
    let long = "9".repeat(400);
    for json in ["18446744073709551616", &long, "1e400", "[1,1e400]"] {
        let (mut batch, mut into) = (Batch::new(), Extracted::default());
        plain(&["/v", "/w"]).read(format!("{{\"v\":{json},\"w\":1}}").as_bytes(), &mut batch, &mut into).unwrap();
        let found: Vec<_> = into.iter().collect();
        assert_eq!((found[0].value, found[0].status), (Value::Null, StatusCode::BAD_OUT_OF_RANGE));
        assert!(found[0].why.unwrap().ends_with("` fits neither 64 bits nor a double"));
        assert!(found[0].why.unwrap().len() < 120);
        assert_eq!(found[1].value, Value::Int(1));
    }
}

#[test]
fn pointers_lead_to_their_values() {
    let extraction = plain(&["/v/kmh", "/battery/soc", "/list/1", "/a~1b/~0", "/nothing", "/v"]);
    let found =
        read(&extraction, r#"{"x":[{"v":1}],"v":{"kmh":88.5},"battery":{"soc":71,"u":[]},"list":[1,2,3],"a/b":{"~":"x"}}"#).unwrap();
    assert_eq!(found, ["0 Double(88.5)", "1 Int(71)", "2 Int(2)", "3 \"x\"", "4 Null bad 0x803E0000", "5/kmh Double(88.5)"]);
    assert_eq!(read(&plain(&[""]), " 23.5 ").unwrap(), ["0 Double(23.5)"]);
    assert_eq!(read(&plain(&["/v/x"]), r#"{"v":5}"#).unwrap(), ["0 Null bad 0x803E0000"]);
    assert_eq!(
        read(&plain(&["/v/01", "/v/+1", "/v/-"]), r#"{"v":[5,6]}"#).unwrap().iter().filter(|f| f.ends_with("0x803E0000")).count(),
        3
    );
    assert_eq!(read(&plain(&["/\u{e4}"]), r#"{"\u00e4":5}"#).unwrap(), ["0 Int(5)"]);
}

#[test]
fn a_wrong_pointer_says_how_to_write_it() {
    assert_eq!(Pointer::parse("v.kmh").unwrap_err(), "`v.kmh` is not a JSON pointer; write /v/kmh");
    assert_eq!(Pointer::parse("/a~2").unwrap_err(), "`~` in `/a~2` must be written ~0, and a `/` in a name ~1");
    assert!(Pointer::parse(&"/a".repeat(200)).is_err());
}

#[test]
fn a_structure_becomes_its_leaves_or_stays_whole() {
    let pointer = pointer("/v");
    let payload = r#"{"v":{"a":1,"b/c":{"d":[1,2],"e":null},"empty":{}}}"#;
    let expand = Extraction::new([(&pointer, Some(Structure::Expand))], None, None);
    assert_eq!(read(&expand, payload).unwrap(), ["0/a Int(1)", "0/b%2Fc/d [1, 2]", "0/b%2Fc/e Null bad 0x809B0000"]);
    let whole = Extraction::new([(&pointer, Some(Structure::Json))], None, None);
    assert_eq!(read(&whole, payload).unwrap(), [r#"0 json {"a":1,"b/c":{"d":[1,2],"e":null},"empty":{}}"#]);
}

#[test]
fn of_a_key_that_stands_twice_the_last_counts() {
    assert_eq!(read(&plain(&["/v"]), r#"{"v":1,"v":2}"#).unwrap(), ["0 Int(2)"]);
    assert_eq!(read(&plain(&["/v/a", "/v/b"]), r#"{"v":{"a":1},"v":{"b":2}}"#).unwrap(), ["0 Null bad 0x803E0000", "1 Int(2)"]);
    assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1,"b":2,"a":3},"x":1}"#).unwrap(), ["0/b Int(2)", "0/a Int(3)"]);
    assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1},"v":{"b":2}}"#).unwrap(), ["0/b Int(2)"]);
    assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1},"v":5}"#).unwrap(), ["0 Int(5)"]);
}

#[test]
fn time_and_status_go_with_every_value() {
    let samples = [pointer("/v"), pointer("/w")];
    let time = Some((pointer("/ts"), clock("{at: /ts, unit: ms, zone: Europe/Berlin}")));
    let extraction = Extraction::new(
        samples.iter().map(|p| (p, None)),
        time.map(TimeAt::from),
        Some(StatusAt { pointer: pointer("/q"), notation: StatusNotation::OpcUa }),
    );
    let read = |payload: &str| {
        let (mut batch, mut into) = (Batch::new(), Extracted::default());
        extraction
            .read(payload.as_bytes(), &mut batch, &mut into)
            .map(|()| (into.time.unwrap().time, into.note.clone(), show(&batch, &into).join(", ")))
    };
    let at = Micros(1_763_726_880_123_000);
    let note = |text: &'static str| Some(Reason::from(text));
    assert_eq!(read(r#"{"v":1,"w":2,"ts":1763726880123,"q":"good"}"#), Ok((at, None, "0 Int(1), 1 Int(2)".into())));
    assert_eq!(
        read(r#"{"q":false,"ts":"1763726880123","v":1,"w":2}"#),
        Ok((at, None, "0 Int(1) bad 0x80000000, 1 Int(2) bad 0x80000000".into()))
    );
    assert_eq!(
        read(r#"{"q":1083441152,"ts":1763726880123,"v":1}"#),
        Ok((at, None, "0 Int(1) uncertain 0x40940000, 1 Null bad 0x803E0000".into()))
    );
    let unknown = note("the status `\"meh\"` is none of good, uncertain, bad, true, false or a status code; say what it means in `as`")
        .map(|n| Reason::from(n.replace('"', "")));
    assert_eq!(
        read(r#"{"q":"meh","ts":1763726880123,"v":1,"w":2}"#),
        Ok((at, unknown, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000".into()))
    );
    let missing = note("the status is missing: nothing is at /q");
    assert_eq!(
        read(r#"{"ts":1763726880123,"v":1,"w":2}"#),
        Ok((at, missing, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000".into()))
    );
    let doubled = read(r#"{"ts":"2025-10-26T02:30:00","q":"good","v":1,"w":2}"#).unwrap();
    assert_eq!(doubled.2, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000");
    assert_eq!(read(r#"{"v":1}"#), Err("the time is missing: nothing is at /ts; `time: {missing: read}` takes the time of reading".into()));
    assert_eq!(read(r#"{"v":1,"ts":[1]}"#), Err("the time at /ts cannot be read: `[1]` is neither a number nor a text".into()));
    assert!(read(r#"{"v":1,"ts":"soon"}"#).unwrap_err().starts_with("the time at /ts cannot be read: `soon` is no time"));
}

#[test]
fn what_is_not_json_is_refused_with_byte_and_reason_and_leaves_nothing() {
    let extraction = plain(&["/v"]);
    for (payload, error) in [
        ("", "the payload cannot be read as JSON: it is empty"),
        ("hello", "the payload cannot be read as JSON: expected a value, found `h` at byte 0"),
        (r#"{"v":"text","#, "the payload cannot be read as JSON: expected a key, found the end at byte 12"),
        (r#"{"v":"text"} {}"#, "the payload cannot be read as JSON: expected the end, found `{` at byte 13"),
    ] {
        let (mut batch, mut into) = (Batch::new(), Extracted::default());
        assert_eq!(extraction.read(payload.as_bytes(), &mut batch, &mut into), Err(error.into()));
        assert!(batch.heap.is_empty());
    }
    assert!(read(&extraction, &"[".repeat(1 << 20)).is_err());
}

#[test]
fn large_texts_are_taken_and_endless_structures_refused() {
    let mut batch = Batch::new();
    let mut into = Extracted::default();
    let text = "x".repeat(16 << 20);
    plain(&["/v"]).read(format!("{{\"v\":\"{text}\"}}").as_bytes(), &mut batch, &mut into).unwrap();
    let Some(Found { value: Value::Text(span), .. }) = into.iter().next() else { panic!() };
    assert_eq!(batch.text_of(span).len(), 16 << 20);
    let fields = format!("{{\"v\":{{{}\"last\":1}}}}", "\"a\":1,".repeat(LEAVES));
    assert!(read(&plain(&["/v"]), &fields).unwrap_err().contains("more than 65536 fields in structures at byte "));
    let deep = format!("{{\"v\":{}1{}}}", format!("{{\"{}\":", "k".repeat(100)).repeat(20), "}".repeat(20));
    assert!(read(&plain(&["/v"]), &deep).unwrap_err().contains("a field's path is longer than 1024 bytes at byte "));
}

#[test]
fn a_payload_that_is_one_number_keeps_its_type() {
    for (payload, value) in [
        ("23.5", Value::Double(23.5)),
        (" 42 ", Value::Int(42)),
        ("5.0\n", Value::Double(5.0)),
        ("-3", Value::Int(-3)),
        ("18446744073709551615", Value::UInt(u64::MAX)),
        ("1e3", Value::Double(1000.0)),
        ("inf", Value::Double(f64::INFINITY)),
    ] {
        assert_eq!(number(payload.as_bytes(), Notation::default()), Ok(value), "{payload}");
    }
    assert!(matches!(number(b"NaN", Notation::default()), Ok(Value::Double(nan)) if nan.is_nan()));
    for (payload, error) in [
        ("", "the payload is not a number: it is empty"),
        ("true", "the payload `true` is not a number"),
        ("23,5", "the payload `23,5` is not a number: a decimal comma or a list; set `decimal: \",\"` for a decimal comma"),
        ("18446744073709551616", "the payload `18446744073709551616` is not a number that fits 64 bits or a double"),
        ("1e400", "the payload `1e400` is not a number that fits 64 bits or a double"),
    ] {
        assert_eq!(number(payload.as_bytes(), Notation::default()), Err(error.into()));
    }
    assert!(number("x".repeat(1000).as_bytes(), Notation::default()).unwrap_err().len() < 150);
    assert!(number(b"\xff", Notation::default()).is_err());
}

#[test]
fn a_row_is_read_by_its_columns() {
    let header = ["timestamp", "torque_nm", "code", "part", "ok"];
    let rules = |declared| Rules { declared, ..Rules::default() };
    let samples = [("torque_nm", None), ("code", None), ("part", Some(CellType::String)), ("torque_nm", Some(CellType::Long))];
    let samples = samples.map(|(name, declared)| (name, rules(declared)));
    let time = clock("{at: timestamp, format: \"%d.%m.%Y %H:%M:%S\", zone: Europe/Berlin}");
    let rows = RowExtraction::new(&header, samples, Some((&["timestamp"], time.clone())), Some(("ok", StatusNotation::default()))).unwrap();
    let read = |cells: &[&'static str]| {
        let (mut batch, mut into) = (Batch::new(), Extracted::default());
        rows.read(|n| cells.get(n).copied(), &mut batch, &mut into).map(|()| show(&batch, &into).join(", "))
    };
    assert_eq!(
        read(&["21.11.2025 13:08:00", "12.5", "007", "4711", "true"]),
        Ok("0 Double(12.5), 1 \"007\", 2 \"4711\", 3 Null bad 0x80740000".into())
    );
    assert_eq!(read(&["21.11.2025 13:08:00", " 12 ", "", "", "good"]), Ok("0 Int(12), 1 Null bad 0x809B0000, 2 \"\", 3 Int(12)".into()));
    assert_eq!(
        read(&["", "1"]),
        Err("the time is missing: column `timestamp` is empty; `time: {missing: read}` takes the time of reading".into())
    );
    assert!(
        read(&["tomorrow", "1"])
            .unwrap_err()
            .starts_with("the time in column `timestamp` cannot be read: `tomorrow` is no time written as")
    );
    let wrong = RowExtraction::new(&header, [("torque", rules(None))], Some((&["timestamp"], time)), None).unwrap_err();
    assert_eq!(wrong, "no column `torque`; there are timestamp, torque_nm, code, part, ok");
}

/// A JSON value as one value of a tag, by the rules in the module's head, from serde_json's tree.
fn by_tree(json: &Json) -> String {
    match json {
        Json::Null => "Null bad 0x809B0000".into(),
        Json::Bool(flag) => format!("Bool({flag})"),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => format!("Int({n})"),
            (_, Some(n)) => format!("UInt({n})"),
            _ => format!("Double({:?})", n.to_string().parse::<f64>().unwrap()),
        },
        Json::String(text) => format!("{text:?}"),
        _ => "other".into(),
    }
}

proptest! {
    #[test]
    fn finds_what_a_tree_of_the_payload_holds(
        a in "-?[1-9][0-9]{0,17}|-?[1-9][0-9]{0,5}\\.[0-9]{1,3}|true|null|\"[a-z\u{e4}]{0,5}\"", b in "-?[1-9][0-9]{0,17}|\"\\\\n\"", skipped in "\\[\\]|\\{\\}|\"\\{\"|\\[1,\\{\"v\":\\{\"a\":7\\}\\}\\]"
    ) {
        let payload = format!("{{\"s\": {skipped}, \"v\": {{\"x\": {skipped}, \"a\": {a}}}, \"b\":{b}}}");
        let tree: Json = serde_json::from_str(&payload).unwrap();
        let found = read(&plain(&["/v/a", "/b"]), &payload).unwrap();
        prop_assert_eq!(&found[0], &format!("0 {}", by_tree(tree.pointer("/v/a").unwrap())));
        prop_assert_eq!(&found[1], &format!("1 {}", by_tree(tree.pointer("/b").unwrap())));
    }

    #[test]
    fn no_payload_panics(payload in "[\\[\\]{},:\"\\\\abvtsx01.5e+\\- \n]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        fuzz_extract(payload.as_bytes());
        fuzz_extract(&bytes);
    }

    #[test]
    fn no_structured_payload_panics(inner in "(\"[abx/]\":[0-9tn\\[\\]{}],?){0,6}") {
        fuzz_extract(format!("{{\"a\":{{{inner}}},\"ts\":1}}").as_bytes());
        fuzz_extract(format!("{{{inner}}}").as_bytes());
    }

    #[test]
    fn no_cell_panics(text in ".{0,30}") {
        for declared in [None, Some(CellType::Boolean), Some(CellType::Long), Some(CellType::Double), Some(CellType::String)] {
            let _ = Rules { declared, ..Rules::default() }.cell(&text, &mut Batch::new());
        }
        let _ = (StatusNotation::OpcDa.read(&text), Pointer::parse(&text));
    }
}
