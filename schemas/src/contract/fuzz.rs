//! What must bear any bytes: schemas of the three languages, documents, and values of another version.

use crate::contract::Contract;
use crate::contract::schema::Kind;
use crate::contract::work::Work;

/// Reads any text as a schema of each language, and a document against what comes of it; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_schema(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in Kind::ALL {
        if let Ok(contract) = Contract::compile(kind, text, None, &mut |_| None) {
            let _ = contract.fit(b"{\"a\":[1,{\"b\":\"x\"}]}", &mut Vec::new(), &mut Work::default());
        }
    }
}

/// Reads any bytes as a document of each language; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_document(bytes: &[u8]) {
    static CONTRACTS: std::sync::LazyLock<Vec<Contract>> = std::sync::LazyLock::new(|| {
        const AVRO: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"string"},
            {"name":"price","type":["null",{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}],"default":null},
            {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"},"string"],"default":null},
            {"name":"next","type":["null","R",{"type":"map","values":"double"}],"default":null},
            {"name":"items","type":{"type":"array","items":["int","bytes","R"]},"default":[]}]}"#;
        const JSON: &str = r##"{"type":"object","required":["id"],"properties":{"id":{"type":"string","pattern":"^[a-z]+$"},"next":{"$ref":"#"},
            "items":{"type":"array","uniqueItems":true,"items":{"type":["integer","string"]}}}}"##;
        const PROTOBUF: &str = "syntax = \"proto3\"; message R { string id = 1; R next = 2; repeated sint64 items = 3; map<int32, double> map = 4; \
            oneof v { bytes b = 5; float f = 6; } enum E { A = 0; B = 1; } repeated E es = 7; }";
        let compile = |(kind, text)| Contract::compile(kind, text, None, &mut |_| None).expect("is a schema");
        [(Kind::Avro, AVRO), (Kind::Json, JSON), (Kind::Protobuf, PROTOBUF)].map(compile).into()
    });
    for contract in CONTRACTS.iter() {
        let mut out = Vec::new();
        if contract.fit(bytes, &mut out, &mut Work::default()).is_err() {
            assert!(out.is_empty(), "a misfit leaves nothing behind");
        }
    }
}

/// Reads any bytes as what another version of a schema wrote; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_resolved(bytes: &[u8]) {
    static SCHEMAS: std::sync::LazyLock<[Contract; 2]> = std::sync::LazyLock::new(|| {
        const WRITER: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"items","type":{"type":"array","items":["int","bytes","R"]}},
            {"name":"id","type":"string"},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["B","A"]}},
            {"name":"gone","type":{"type":"map","values":"float"}},
            {"name":"next","type":["R","null"]}]}"#;
        const READER: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"bytes"},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","C"],"default":"C"}},
            {"name":"next","type":["null","R"],"default":null},
            {"name":"price","type":["null","double"],"default":null},
            {"name":"items","type":{"type":"array","items":["double","bytes","R"]},"default":[]}]}"#;
        [WRITER, READER].map(|text| Contract::compile(Kind::Avro, text, None, &mut |_| None).expect("is a schema"))
    });
    let [writer, reader] = &*SCHEMAS;
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    match reader.resolve(writer, bytes, &mut once) {
        Some(()) => {
            assert!(reader.resolve(reader, &once, &mut twice).is_some(), "what was resolved is a value of the reader's");
            assert_eq!(once, twice);
        }
        None => assert!(once.is_empty(), "what means nothing leaves nothing behind"),
    }
}
