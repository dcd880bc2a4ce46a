//! The three forms of a sample against foreign encoders and decoders, against themselves, and against hostile bytes.

mod common;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema, rabin::Rabin};
use common::{Plain, Sample, sample};
use millrace_schemas::avro::{TELEMETRY_FINGERPRINT, TELEMETRY_SCHEMA};
use millrace_schemas::{Batch, DecodeError, Kind, Row, SampleMeta, Span, StatusCode, Value, avro, json, protobuf};
use proptest::prelude::*;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Value as Json, json};
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse_str(TELEMETRY_SCHEMA).unwrap());

static PROTO: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    struct Telemetry;
    impl protox::file::FileResolver for Telemetry {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            protox::file::File::from_source(name, protobuf::TELEMETRY_PROTO)
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(Telemetry);
    compiler.open_file("telemetry.proto").unwrap();
    compiler.descriptor_pool().get_message_by_name("millrace.Sample").unwrap()
});

static JSON_SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&serde_json::from_str(json::TELEMETRY_JSON_SCHEMA).unwrap()).unwrap());

type Encode = fn(&SampleMeta<'_>, &Row, &[u8], &mut Vec<u8>) -> Option<Range<usize>>;
type Decode = fn(&[u8], &mut Batch) -> Result<(), DecodeError>;

fn encoded(sample: &Sample, encode: Encode) -> Vec<u8> {
    let mut batch = Batch::new();
    let row = sample.row(&mut batch);
    let mut out = b"before".to_vec();
    let key = encode(&sample.meta(), &row, &batch.heap, &mut out);
    if let Some(key) = key {
        assert_eq!(out[key], *sample.tag.as_bytes());
    }
    assert!(out.starts_with(b"before"));
    out.split_off(6)
}

fn decoded(bytes: &[u8], decode: Decode) -> Result<Sample, DecodeError> {
    let mut batch = Batch::new();
    batch.push_bytes(b"another row's");
    decode(bytes, &mut batch)?;
    Ok(Sample::take(&batch))
}

/// Debug text: equal for equal samples, a NaN included.
fn text(sample: &Sample) -> String {
    format!("{sample:?}")
}

fn read_by_apache(bytes: &[u8]) -> Avro {
    GenericDatumReader::builder(&SCHEMA).build().unwrap().read_value(&mut &bytes[..]).unwrap()
}

fn as_avro(sample: &Sample) -> Avro {
    fn array<T: Clone>(index: u32, items: &[T], dims: &[i32], item: impl Fn(T) -> Avro) -> (u32, Avro) {
        let items = Avro::Array(items.iter().cloned().map(item).collect());
        let dims = Avro::Array(dims.iter().copied().map(Avro::Int).collect());
        (index, Avro::Record(vec![("items".into(), items), ("dims".into(), dims)]))
    }
    let decimal = |value: u64| {
        let bytes = u128::from(value).to_be_bytes();
        let skip = (0..15).take_while(|n| bytes[*n] == 0 && bytes[n + 1] & 0x80 == 0).count();
        Avro::Decimal(Decimal::from(&bytes[skip..]))
    };
    let (index, value) = match sample.clone().written().value {
        Plain::Null => (0, Avro::Null),
        Plain::Bool(v) => (1, Avro::Boolean(v)),
        Plain::Int(v) => (2, Avro::Long(v)),
        Plain::Double(v) => (3, Avro::Double(v)),
        Plain::Text(v) => (4, Avro::String(v)),
        Plain::Bytes(v) => (5, Avro::Bytes(v)),
        Plain::UInt(v) => (6, Avro::Record(vec![("number".into(), decimal(v))])),
        Plain::Bools(v, dims) => array(7, &v, &dims, Avro::Boolean),
        Plain::Ints(v, dims) => array(8, &v, &dims, Avro::Long),
        Plain::Doubles(v, dims) => array(9, &v, &dims, Avro::Double),
        Plain::Texts(v, dims) => array(10, &v, &dims, Avro::String),
        Plain::UInts(v, dims) => array(11, &v, &dims, decimal),
        Plain::Blobs(v, dims) => array(12, &v, &dims, Avro::Bytes),
        Plain::Struct(v) => (13, Avro::Record(vec![("json".into(), Avro::String(v))])),
    };
    let optional = |time: i64| match time {
        0 => Avro::Union(0, Box::new(Avro::Null)),
        time => Avro::Union(1, Box::new(Avro::TimestampMicros(time))),
    };
    let quality = StatusCode(sample.status).quality();
    let (origin, time_source) = (sample.flags.origin, sample.flags.time_source);
    Avro::Record(vec![
        ("tag".into(), Avro::String(sample.tag.clone())),
        ("def".into(), Avro::Int(sample.def)),
        ("value".into(), Avro::Union(index, Box::new(value))),
        ("time".into(), Avro::TimestampMicros(sample.time)),
        ("time_source".into(), Avro::Enum(time_source as u32, time_source.as_str().into())),
        ("read_time".into(), Avro::TimestampMicros(sample.read_time)),
        ("server_time".into(), optional(sample.server_time)),
        ("device_time".into(), optional(sample.device_time)),
        ("status".into(), Avro::Long(sample.status.into())),
        ("quality".into(), Avro::Enum(quality as u32, quality.as_str().into())),
        ("origin".into(), Avro::Enum(origin as u32, origin.as_str().into())),
        ("source".into(), Avro::String(sample.source.clone())),
        ("seq".into(), Avro::Long(sample.seq)),
    ])
}

fn as_json(sample: &Sample) -> Json {
    fn array<T: serde::Serialize>(of: Option<&str>, items: &[T], dims: &[i32]) -> Json {
        match (of, dims) {
            (None, []) => json!(items),
            (None, dims) => json!({"items": items, "dims": dims}),
            (Some(of), []) => json!({"of": of, "items": items}),
            (Some(of), dims) => json!({"of": of, "items": items, "dims": dims}),
        }
    }
    fn base64(bytes: &[u8]) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }
    fn double(value: f64) -> Json {
        match value {
            v if v.is_nan() => json!("NaN"),
            f64::INFINITY => json!("Infinity"),
            f64::NEG_INFINITY => json!("-Infinity"),
            v => json!(v),
        }
    }
    let value = match &sample.value {
        Plain::Null => Json::Null,
        Plain::Bool(v) => json!(v),
        Plain::Int(v) => json!(v),
        Plain::UInt(v) => json!(v),
        Plain::Double(v) => double(*v),
        Plain::Text(v) if ["NaN", "Infinity", "-Infinity"].contains(&v.as_str()) => json!({"text": v}),
        Plain::Text(v) => json!(v),
        Plain::Bytes(v) => json!({"bytes": base64(v)}),
        Plain::Struct(v) => json!({"json": serde_json::from_str::<Json>(v).unwrap()}),
        Plain::Bools(v, dims) => array(v.is_empty().then_some("boolean"), v, dims),
        Plain::Ints(v, dims) => array(v.is_empty().then_some("long"), v, dims),
        Plain::UInts(v, dims) => array(v.is_empty().then_some("long"), v, dims),
        Plain::Doubles(v, dims) => {
            let of = (!v.iter().any(|v| v.is_finite())).then_some("double");
            array(of, &v.iter().map(|v| double(*v)).collect::<Vec<_>>(), dims)
        }
        Plain::Texts(v, dims) => array(v.is_empty().then_some("string"), v, dims),
        Plain::Blobs(v, dims) => array(Some("bytes"), &v.iter().map(|v| base64(v)).collect::<Vec<_>>(), dims),
    };
    let mut object = json!({
        "tag": sample.tag, "def": sample.def, "value": value, "time": sample.time, "time_source": sample.flags.time_source.as_str(),
        "read_time": sample.read_time, "status": sample.status, "quality": StatusCode(sample.status).quality().as_str(),
        "origin": sample.flags.origin.as_str(), "source": sample.source, "seq": sample.seq,
    });
    for (field, time) in [("server_time", sample.server_time), ("device_time", sample.device_time)] {
        if time != 0 {
            object[field] = json!(time);
        }
    }
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn apache_avro_reads_what_we_write(sample in sample()) {
        prop_assert_eq!(format!("{:?}", read_by_apache(&encoded(&sample, avro::encode))), format!("{:?}", as_avro(&sample)));
    }

    #[test]
    fn we_read_what_apache_avro_writes_and_write_the_same_bytes(sample in sample()) {
        let theirs = GenericDatumWriter::builder(&SCHEMA).build().unwrap().write_value_to_vec(as_avro(&sample)).unwrap();
        prop_assert_eq!(&encoded(&sample, avro::encode), &theirs);
        prop_assert_eq!(text(&decoded(&theirs, avro::decode).unwrap()), text(&sample.written()));
    }

    #[test]
    fn serde_json_reads_what_we_write(sample in sample()) {
        let ours = encoded(&sample, json::encode);
        prop_assert!(!ours.contains(&b'\n'));
        // both through the same parser: serde_json's is not exact to the last bit of a double
        let theirs: Json = serde_json::from_str(&as_json(&sample).to_string()).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Json>(&ours).unwrap(), theirs);
    }

    #[test]
    fn we_read_what_serde_json_writes_in_any_order(sample in sample(), rotate in 0..11_usize) {
        let object = as_json(&sample);
        let fields = object.as_object().unwrap().iter();
        let rotated: serde_json::Map<_, _> = fields.clone().cycle().skip(rotate).take(fields.len()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let theirs = serde_json::to_vec_pretty(&rotated).unwrap();
        // a structure's text differs in its white space
        let compact = |mut sample: Sample| {
            if let Plain::Struct(json) = &mut sample.value {
                *json = serde_json::from_str::<Json>(json).unwrap().to_string();
            }
            text(&sample)
        };
        prop_assert_eq!(compact(decoded(&theirs, json::decode).unwrap()), compact(sample.written()));
    }

    #[test]
    fn a_sample_comes_back_from_every_form(sample in sample()) {
        let expected = text(&sample.clone().written());
        prop_assert_eq!(text(&decoded(&encoded(&sample, protobuf::encode), protobuf::decode).unwrap()), expected.clone());
        prop_assert_eq!(text(&decoded(&encoded(&sample, avro::encode), avro::decode).unwrap()), expected.clone());
        prop_assert_eq!(text(&decoded(&encoded(&sample, json::encode), json::decode).unwrap()), expected);
    }

    #[test]
    fn prost_reads_what_we_write_and_we_read_what_it_writes(sample in sample()) {
        let ours = encoded(&sample, protobuf::encode);
        let read = DynamicMessage::decode(PROTO.clone(), &ours[..]).unwrap();
        let tag = read.get_field_by_name("tag").unwrap();
        prop_assert_eq!(tag.as_str(), Some(sample.tag.as_str()));
        let seq = read.get_field_by_name("seq").unwrap();
        prop_assert_eq!(seq.as_i64(), Some(sample.seq));
        let time = read.get_field_by_name("time").unwrap();
        prop_assert_eq!(time.as_i64(), Some(sample.time));
        let status = read.get_field_by_name("status").unwrap();
        prop_assert_eq!(status.as_u32(), Some(sample.status));
        prop_assert_eq!(read.has_field_by_name("device_time"), sample.device_time != 0);
        prop_assert_eq!(read.unknown_fields().count(), 0);
        let set: Vec<_> = read.fields().filter(|(field, _)| (3..=15).contains(&field.number())).collect();
        prop_assert_eq!(set.len(), usize::from(!matches!(sample.value, Plain::Null)));
        if let (Plain::Double(value), [(field, found)]) = (&sample.value, &set[..]) {
            prop_assert_eq!(field.name(), "double_value");
            prop_assert_eq!(found.as_f64().map(f64::to_bits), Some(value.to_bits()));
        }
        prop_assert_eq!(text(&decoded(&read.encode_to_vec(), protobuf::decode).unwrap()), text(&sample.written()));
    }

    #[test]
    fn what_we_write_in_json_fits_the_schema_of_the_samples(sample in sample()) {
        let line = encoded(&sample, json::encode);
        let value: Json = serde_json::from_slice(&line).unwrap();
        prop_assert!(JSON_SCHEMA.is_valid(&value), "{}", String::from_utf8_lossy(&line));
    }

    #[test]
    fn bytes_from_anywhere_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        avro::fuzz_avro_sample(&bytes);
        json::fuzz_json_sample(&bytes);
        protobuf::fuzz_protobuf_sample(&bytes);
    }

    #[test]
    fn a_damaged_sample_is_read_or_refused(sample in sample(), damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()) {
        for (encode, fuzz) in [(avro::encode as Encode, avro::fuzz_avro_sample as fn(&[u8])), (json::encode, json::fuzz_json_sample), (protobuf::encode, protobuf::fuzz_protobuf_sample)] {
            let mut bytes = encoded(&sample, encode);
            fuzz(&bytes[..cut % bytes.len()]);
            for (at, byte) in &damage {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            fuzz(&bytes);
        }
    }

    #[test]
    fn a_value_whose_bytes_are_not_there_is_null_and_bad(start in any::<u32>(), len in any::<u32>(), heap in proptest::collection::vec(any::<u8>(), 0..40), kind in 0..9) {
        let span = Span { start: start % 60, len: len % 60 };
        let kinds = [Kind::Bool, Kind::Int, Kind::UInt, Kind::Double, Kind::Text, Kind::Bytes];
        let value = match kind {
            0 => Value::Text(span),
            1 => Value::Bytes(span),
            2 => Value::Struct(span),
            n => Value::Array(kinds[n as usize - 3], span),
        };
        let base = plain(Plain::Null);
        let row = Row { value, ..base.row(&mut Batch::new()) };
        for (encode, decode) in [(avro::encode as Encode, avro::decode as Decode), (json::encode, json::decode), (protobuf::encode, protobuf::decode)] {
            let mut out = Vec::new();
            encode(&base.meta(), &row, &heap, &mut out);
            let sample = decoded(&out, decode).unwrap();
            prop_assert_eq!(matches!(sample.value, Plain::Null), sample.status == StatusCode::BAD_DECODING_ERROR.0);
        }
    }
}

fn plain(value: Plain) -> Sample {
    Sample {
        tag: "acme/detroit/body/force".into(),
        def: 1,
        value,
        time: 1_763_726_880_000_000,
        read_time: 1_763_726_880_000_412,
        server_time: 0,
        device_time: 0,
        status: 0,
        flags: Default::default(),
        source: "acme/detroit/press-1".into(),
        seq: 7,
    }
}

#[test]
fn the_fingerprint_is_that_of_the_schema() {
    let theirs = SCHEMA.fingerprint::<Rabin>().bytes;
    assert_eq!(
        TELEMETRY_FINGERPRINT.to_le_bytes().as_slice(),
        theirs,
        "it is 0x{:016X}",
        u64::from_le_bytes(theirs.clone().try_into().unwrap())
    );
}

#[test]
fn the_json_form_is_one_flat_line() {
    let line = String::from_utf8(encoded(&plain(Plain::Double(212.0)), json::encode)).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"tag":"acme/detroit/body/force","def":1,"value":212.0,"time":1763726880000000,"time_source":"gateway","#,
            r#""read_time":1763726880000412,"status":0,"quality":"good","origin":"other","source":"acme/detroit/press-1","seq":7}"#
        )
    );
}

#[test]
fn values_that_json_would_confuse_are_kept_apart() {
    for (value, json) in [
        (Plain::Int(5), "5"),
        (Plain::Double(5.0), "5.0"),
        (Plain::UInt(u64::MAX), "18446744073709551615"),
        (Plain::Double(f64::NAN), r#""NaN""#),
        (Plain::Text("NaN".into()), r#"{"text":"NaN"}"#),
        (Plain::Bytes(vec![255, 0]), r#"{"bytes":"/wA="}"#),
        (Plain::Struct("{\n\t\"a\": [1, null]}".into()), r#"{"json":{  "a": [1, null]}}"#),
        (Plain::Doubles(vec![1.0, f64::INFINITY], vec![]), r#"[1.0,"Infinity"]"#),
        (Plain::Doubles(vec![f64::NAN], vec![]), r#"{"of":"double","items":["NaN"]}"#),
        (Plain::Texts(vec!["NaN".into()], vec![]), r#"["NaN"]"#),
        (Plain::Texts(vec![], vec![]), r#"{"of":"string","items":[]}"#),
        (Plain::Ints(vec![1, 2, 3, 4], vec![2, 2]), r#"{"items":[1,2,3,4],"dims":[2,2]}"#),
        (Plain::UInts(vec![1, u64::MAX], vec![]), "[1,18446744073709551615]"),
    ] {
        let line = String::from_utf8(encoded(&plain(value), json::encode)).unwrap();
        assert!(line.contains(&format!("\"value\":{json},\"time\"")), "{json}: {line}");
    }
}

#[test]
fn a_tag_that_json_escapes_has_no_key_in_the_value() {
    let mut sample = plain(Plain::Null);
    sample.tag = "a\"b".into();
    let mut batch = Batch::new();
    let row = sample.row(&mut batch);
    assert_eq!(json::encode(&sample.meta(), &row, &batch.heap, &mut Vec::new()), None);
    assert_eq!(avro::encode(&sample.meta(), &row, &batch.heap, &mut Vec::new()), Some(1..4));
}

#[test]
fn an_error_names_field_byte_and_reason() {
    let refuse = |bytes: &[u8], decode: Decode| decoded(bytes, decode).unwrap_err().to_string();
    let avro = encoded(&plain(Plain::Text("x".into())), avro::encode);
    assert_eq!(refuse(&avro[..5], avro::decode), "cannot read `tag` of a sample at byte 0: 23 bytes announced, 4 left");
    assert_eq!(refuse(&[0, 2, 99], avro::decode), "cannot read `value` of a sample at byte 2: union index -50, expected 0 to 13");
    assert_eq!(
        refuse(&[&avro[..], b"?"].concat(), avro::decode),
        format!("cannot read `seq` of a sample at byte {}: 1 bytes are left behind the sample", avro.len())
    );
    let json = |json: &str| refuse(json.as_bytes(), json::decode);
    assert_eq!(json("[]"), "cannot read `{}` of a sample at byte 0: a sample is an object");
    assert_eq!(json("{\"tag\":5}"), "cannot read `tag` of a sample at byte 7: expected a string, found `5`");
    assert_eq!(json("{\"tag\":\"a\",\"tag\":\"a\"}"), "cannot read `tag` of a sample at byte 17: the field stands here twice");
    assert_eq!(json("{\"tag\":\"a\"}"), "cannot read `time` of a sample at byte 11: the field is missing");
    assert_eq!(
        json("{\"value\":[1,\"a\"]}"),
        "cannot read `value` of a sample at byte 9: an array of mixed types; as a structure it would be `{\"json\":[..]}`"
    );
    assert_eq!(
        json("{\"status\":4294967296}"),
        "cannot read `status` of a sample at byte 10: `4294967296` is not a whole number of 32 bits"
    );
    assert_eq!(
        json("{\"origin\":\"x\"}"),
        "cannot read `origin` of a sample at byte 10: `x`, expected one of other, change, poll, initial, heartbeat, status, event, trigger, backfill, replay"
    );
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    // `Longs` that announce 2^62 items, a negative block of i64::MIN items, a string of 2^62 bytes
    let hostile = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let most = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
    for (branch, length) in [(16, hostile), (16, most), (8, hostile), (10, most)] {
        let bytes = [&[0, 0, branch][..], &length, &[0; 30]].concat();
        let mut batch = Batch::new();
        assert!(avro::decode(&bytes, &mut batch).is_err());
        assert!(batch.heap.capacity() < 1000);
    }
}

#[test]
fn fields_left_out_have_the_defaults_of_the_schema() {
    let sample = decoded(br#"{"tag":"a","time":1,"read_time":2,"source":"s","seq":3,"new":{"x":[1]}}"#, json::decode).unwrap();
    assert_eq!((sample.def, sample.status, sample.flags), (0, 0, Default::default()));
    assert!(matches!(sample.value, Plain::Null));
}

#[test]
fn the_corpus_of_the_fuzzers_is_read_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    let forms = [
        ("avro_sample", avro::fuzz_avro_sample as fn(&[u8])),
        ("json_sample", json::fuzz_json_sample),
        ("protobuf_sample", protobuf::fuzz_protobuf_sample),
    ];
    for (folder, fuzz) in forms {
        let files: Vec<_> = std::fs::read_dir(corpus.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 5, "{folder} has only {} files", files.len());
        for file in files {
            fuzz(&std::fs::read(file).unwrap());
        }
    }
}
