//! The library writes, we read.

use super::*;
use crate::fuzz::fuzz_opcua_value;
use crate::wire::EPOCH_MICROS;
use millrace_schemas::Array;
use opcua::types::{
    BinaryEncodable, ContextOwned, DataValue, DateTime, Guid, LocalizedText, NodeId, QualifiedName, StatusCode as UaStatus, UAString,
    Variant,
};
use std::str::FromStr;

/// The library writes, we read.
fn read(value: impl Into<Variant>) -> (Value, Batch) {
    let value = DataValue {
        value: Some(value.into()),
        status: Some(UaStatus::UncertainLastUsableValue),
        source_timestamp: Some(DateTime::from(132_000_000_000_000_010)),
        ..DataValue::null()
    };
    let context = ContextOwned::default();
    let bytes = value.encode_to_vec(&context.context());
    let mut batch = Batch::new();
    let mut reader = Reader::new(&bytes);
    let stamped = reader.data_value(&mut batch, &bytes).expect("is whole");
    assert!(reader.rest().is_empty());
    assert_eq!(stamped.status.0, 0x4090_0000);
    assert_eq!(stamped.source, Micros(132_000_000_000_000_010 / 10 - EPOCH_MICROS));
    fuzz_opcua_value(&bytes);
    (stamped.value, batch)
}

fn text(value: impl Into<Variant>) -> String {
    let (value, batch) = read(value);
    let Value::Text(span) = value else { panic!("{value:?} is no text") };
    batch.text_of(span).to_owned()
}

#[test]
fn every_scalar_keeps_its_value() {
    assert_eq!(read(true).0, Value::Bool(true));
    assert_eq!(read(-5_i8).0, Value::Int(-5));
    assert_eq!(read(250_u8).0, Value::UInt(250));
    assert_eq!(read(i64::MIN).0, Value::Int(i64::MIN));
    assert_eq!(read(u64::MAX).0, Value::UInt(u64::MAX));
    assert_eq!(read(0.1_f32).0, Value::Double(f64::from(0.1_f32)));
    assert_eq!(read(DateTime::epoch()).0, Value::Int(-EPOCH_MICROS));
    assert_eq!(read(UaStatus::BadNodeIdUnknown).0, Value::UInt(0x8034_0000));
    assert_eq!(read(UAString::null()).0, Value::Null);
    assert_eq!(text("Grüße"), "Grüße");
    assert_eq!(text(LocalizedText::new("de", "Presse")), "Presse");
    assert_eq!(text(QualifiedName::new(2, "Temp")), "2:Temp");
    assert_eq!(text(NodeId::new(3, "a;b")), "ns=3;s=a;b");
    assert_eq!(text(NodeId::new(0, 2258_u32)), "i=2258");
    assert_eq!(text(Guid::from_str("72962b91-fa75-4ae6-8d28-b404dc7daf63").unwrap()), "72962B91-FA75-4AE6-8D28-B404DC7DAF63");
}

#[test]
fn arrays_keep_their_items_and_one_with_a_null_is_json() {
    let (value, batch) = read(vec![1_i32, -2, 3]);
    let Value::Array(kind, span) = value else { panic!("{value:?}") };
    let array = Array::read(kind, span, &batch.heap).unwrap();
    assert_eq!(array.words().map(i64::from_le_bytes).collect::<Vec<_>>(), [1, -2, 3]);
    let (value, batch) = read(vec![UAString::from("a"), UAString::null()]);
    let Value::Struct(span) = value else { panic!("{value:?}") };
    assert_eq!(batch.text_of(span), "[\"a\",null]");
}

#[test]
fn a_matrix_keeps_its_dimensions_and_a_wrong_one_is_bad_alone() {
    // Double[2][2], then its dimensions.
    let mut bytes = vec![1, builtin::DOUBLE | 0xC0];
    bytes.extend(4_i32.to_le_bytes());
    bytes.extend([1.0_f64, 2.0, 3.0, 4.0].iter().flat_map(|item| item.to_le_bytes()));
    bytes.extend(2_i32.to_le_bytes());
    let (mut good, mut bad) = (bytes.clone(), bytes);
    good.extend([2_i32, 2].iter().flat_map(|dim| dim.to_le_bytes()));
    bad.extend([2_i32, 3].iter().flat_map(|dim| dim.to_le_bytes()));
    let mut batch = Batch::new();
    let value = Reader::new(&good).data_value(&mut batch, &good).unwrap().value;
    let Value::Array(kind, span) = value else { panic!("{value:?}") };
    assert_eq!(Array::read(kind, span, &batch.heap).unwrap().dims().collect::<Vec<_>>(), [2, 2]);
    let stamped = Reader::new(&bad).data_value(&mut batch, &bad).unwrap();
    assert_eq!((stamped.value, stamped.status), (Value::Null, StatusCode::BAD_DECODING_ERROR));
}

#[test]
fn a_time_before_all_times_is_kept_as_a_value_and_no_stamp() {
    assert_eq!((stamp(0), stamp(-1), stamp(i64::MAX)), (Micros::NONE, Micros::NONE, Micros::NONE));
    assert_eq!(stamp(10), Micros(1 - EPOCH_MICROS));
    let mut batch = Batch::new();
    assert_eq!(Reader::new(&0_i64.to_le_bytes()).scalar(builtin::DATE_TIME, &mut batch), Ok(Value::Int(-EPOCH_MICROS)));
    assert_eq!(
        Reader::new(&i64::MIN.to_le_bytes()).scalar(builtin::DATE_TIME, &mut batch),
        Ok(Value::Int(i64::MIN.div_euclid(10) - EPOCH_MICROS))
    );
}

#[test]
fn hostile_lengths_and_depths_are_refused_before_anything_is_allocated() {
    let mut long = vec![1, builtin::INT64 | 0x80];
    long.extend(i32::MAX.to_le_bytes());
    let mut batch = Batch::new();
    assert!(Reader::new(&long).data_value(&mut batch, &long).is_err());
    // A variant in a variant, ten thousand times.
    let deep: Vec<u8> = std::iter::once(1).chain(std::iter::repeat_n(builtin::VARIANT, 10_000)).collect();
    assert!(Reader::new(&deep).data_value(&mut batch, &deep).is_err());
    fuzz_opcua_value(&deep);
    fuzz_opcua_value(&long);
}
