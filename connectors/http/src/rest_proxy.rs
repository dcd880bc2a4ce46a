//! Producing as with Confluent's REST Proxy, so that its clients need no change but the address.
//!
//! ```text
//! v2   POST /topics/{topic}    {"records":[{"key":..,"value":..}]}       application/vnd.kafka.json.v2+json, ..binary.v2+json (base64);
//!                                                                        v1 is the same but for the number
//! v3   POST /v3/clusters/{id}/topics/{topic}/records    {"key":{"type":"STRING","data":"k"},"value":{"type":"JSON","data":{..}}}
//!      one or several of them in one body, an answer for each; GET /v3/clusters names the cluster
//! ```
//!
//! What is answered: that the record is in the log and synced. It has no partition and no offset yet: both are -1, as of a producer that does not wait
//! for Kafka. A partition that the client chooses is refused, because keys choose it here; schemas in the request are refused, because topics have
//! them here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_schemas::Micros;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The cluster's name in v3.
pub const CLUSTER: &str = "millrace";

/// What a request asks of the produce interface.
#[derive(Clone, PartialEq, Debug)]
pub enum Ask<'p> {
    ProduceV2(&'p str),
    ProduceV3(&'p str),
    Clusters,
    Cluster,
}

/// Reads a path; `None` where it is none of these.
pub fn ask<'p>(method: &str, path: &'p str) -> Option<Ask<'p>> {
    let levels: Vec<_> = path.trim_end_matches('/').split('/').skip(1).collect();
    match (method, &levels[..]) {
        ("POST", ["topics", topic]) => Some(Ask::ProduceV2(topic)),
        ("POST", ["v3", "clusters", CLUSTER, "topics", topic, "records"]) => Some(Ask::ProduceV3(topic)),
        ("GET", ["v3", "clusters"]) => Some(Ask::Clusters),
        ("GET", ["v3", "clusters", CLUSTER]) => Some(Ask::Cluster),
        _ => None,
    }
}

/// A record to be written to Kafka as it is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Produced {
    pub key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub time: Option<Micros>,
}

#[derive(Deserialize)]
struct V2<'a> {
    #[serde(borrow)]
    records: Vec<V2Record<'a>>,
    key_schema: Option<&'a RawValue>,
    value_schema: Option<&'a RawValue>,
    key_schema_id: Option<&'a RawValue>,
    value_schema_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct V2Record<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    value: Option<&'a RawValue>,
    partition: Option<i32>,
}

/// Why a record or a request is refused: an error code of the REST Proxy, whose first three digits are the status, and a text.
pub type Refusal = (u32, String);

/// The records of a request in v2.
pub fn v2(content_type: &str, body: &[u8]) -> Result<Vec<Result<Produced, Refusal>>, Refusal> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let is_binary = match kind {
        "application/vnd.kafka.json.v2+json"
        | "application/vnd.kafka.v2+json"
        | "application/json"
        | "application/vnd.kafka.json.v1+json" => false,
        "application/vnd.kafka.binary.v2+json" | "application/vnd.kafka.binary.v1+json" => true,
        kind if ["avro", "jsonschema", "protobuf"].iter().any(|name| kind.starts_with(&format!("application/vnd.kafka.{name}."))) => {
            return Err((41501, "schemas are declared with the topic in Millrace; send application/vnd.kafka.json.v2+json".into()));
        }
        other => return Err((41501, format!("the content type `{other}` is not taken; send application/vnd.kafka.json.v2+json"))),
    };
    let request: V2<'_> = serde_json::from_slice(body).map_err(|error| (42201, format!("the request cannot be read: {error}")))?;
    let schemas = [request.key_schema, request.value_schema, request.key_schema_id, request.value_schema_id];
    if schemas.iter().any(Option::is_some) {
        return Err((42203, "schemas are declared with the topic in Millrace, not in a request".into()));
    }
    let read = |part: Option<&RawValue>| match part.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(text) if is_binary => {
            let text: String = serde_json::from_str(text).map_err(|_| (42201, "a binary key or value is not a text".to_owned()))?;
            STANDARD.decode(text).map(Some).map_err(|error| (42201, format!("a key or value is not base64: {error}")))
        }
        Some(text) => Ok(Some(text.as_bytes().to_vec())),
    };
    let records = request.records.into_iter().map(|record| {
        no_partition(record.partition)?;
        Ok(Produced { key: read(record.key)?, value: read(record.value)?, ..Produced::default() })
    });
    Ok(records.collect())
}

#[derive(Deserialize)]
struct V3<'a> {
    partition_id: Option<i32>,
    timestamp: Option<Value>,
    #[serde(default)]
    headers: Vec<V3Header>,
    #[serde(borrow)]
    key: Option<V3Data<'a>>,
    #[serde(borrow)]
    value: Option<V3Data<'a>>,
}

#[derive(Deserialize)]
struct V3Header {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
struct V3Data<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The records of a request in v3: JSON texts one after the other. After one that can't be read nothing more is.
pub fn v3(body: &[u8]) -> Vec<Result<Produced, Refusal>> {
    let mut records = Vec::new();
    for record in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
        match record {
            Ok(text) => records.push(serde_json::from_str(text.get()).map_err(|error| (400, error.to_string())).and_then(v3_record)),
            Err(error) => {
                records.push(Err((400, format!("the request cannot be read: {error}"))));
                break;
            }
        }
    }
    records
}

fn v3_record(record: V3<'_>) -> Result<Produced, Refusal> {
    no_partition(record.partition_id)?;
    let header = |header: V3Header| {
        let value = header.value.map(|value| STANDARD.decode(value)).transpose();
        value.map(|value| (header.name, value)).map_err(|error| (400, format!("a header is not base64: {error}")))
    };
    let time = match record.timestamp {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => {
            let read = millrace_kit::time::Clock::default().text(&text);
            Some(read.map_err(|why| (400, format!("the timestamp cannot be read: {why}")))?.time)
        }
        Some(Value::Number(number)) if number.is_i64() => number.as_i64().and_then(|millis| millis.checked_mul(1000)).map(Micros),
        Some(other) => return Err((400, format!("the timestamp `{other}` is none"))),
    };
    let headers = record.headers.into_iter().map(header).collect::<Result<_, _>>()?;
    Ok(Produced { key: v3_data(record.key)?, value: v3_data(record.value)?, headers, time })
}

fn v3_data(data: Option<V3Data<'_>>) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(V3Data { kind, data }) = data else { return Ok(None) };
    let Some(text) = data.map(RawValue::get).filter(|text| *text != "null") else { return Ok(None) };
    let string = || {
        serde_json::from_str::<String>(text)
            .map_err(|_| (400, format!("`data` of type {} is not a text", kind.as_deref().unwrap_or("STRING"))))
    };
    match kind.as_deref() {
        Some("JSON") => Ok(Some(text.as_bytes().to_vec())),
        Some("STRING") => Ok(Some(string()?.into_bytes())),
        Some("BINARY") => STANDARD.decode(string()?).map(Some).map_err(|error| (400, format!("`data` is not base64: {error}"))),
        Some(other) => Err((
            42206,
            format!("the type {other} is not taken here: schemas are declared with the topic; there are JSON, STRING and BINARY"),
        )),
        None => Err((400, "`type` is missing: JSON, STRING or BINARY".into())),
    }
}

fn no_partition(partition: Option<i32>) -> Result<(), Refusal> {
    match partition {
        Some(partition) if partition >= 0 => {
            Err((42206, format!("partition {partition} cannot be chosen: keys choose partitions here; leave it out")))
        }
        _ => Ok(()),
    }
}

/// The answer in v2, once what was taken is synced.
pub fn answer_v2(results: &[Result<(), Refusal>]) -> Value {
    let offsets: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(()) => json!({"partition": -1, "offset": -1, "error_code": null, "error": null}),
            Err((code, why)) => json!({"partition": null, "offset": null, "error_code": code, "error": why}),
        })
        .collect();
    json!({"offsets": offsets, "key_schema_id": null, "value_schema_id": null})
}

/// The answer to one record in v3.
pub fn answer_v3(topic: &str, result: &Result<(usize, usize), Refusal>) -> Value {
    match result {
        Ok((key, value)) => json!({
            "error_code": 200, "cluster_id": CLUSTER, "topic_name": topic, "partition_id": -1, "offset": -1,
            "key": {"type": "BINARY", "size": key}, "value": {"type": "BINARY", "size": value},
        }),
        Err((code, why)) => json!({"error_code": code, "message": why}),
    }
}

/// The cluster of v3, for clients that ask for its name first.
pub fn cluster(at: &str) -> Value {
    let url = format!("{at}/v3/clusters/{CLUSTER}");
    json!({
        "kind": "KafkaCluster", "metadata": {"self": url, "resource_name": format!("crn:///kafka={CLUSTER}")}, "cluster_id": CLUSTER,
        "topics": {"related": format!("{url}/topics")},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_takes_json_and_binary_as_confluent_documents_them() {
        let body =
            br#"{"records":[{"key":"k","value":{"foo": "bar"}},{"value":[1,2]},{"key":{"id":1},"value":null},{"value":1,"partition":1}]}"#;
        let records = v2("application/vnd.kafka.json.v2+json", body).unwrap();
        assert_eq!(records[0].as_ref().unwrap().key.as_deref(), Some(&b"\"k\""[..]));
        assert_eq!(records[0].as_ref().unwrap().value.as_deref(), Some(&br#"{"foo": "bar"}"#[..]));
        assert_eq!(records[2].as_ref().unwrap().value, None);
        assert_eq!(records[3].as_ref().unwrap_err().0, 42206);
        let binary = v2("application/vnd.kafka.binary.v2+json", br#"{"records":[{"value":"S2Fma2E="},{"value":"%"}]}"#).unwrap();
        assert_eq!(binary[0].as_ref().unwrap().value.as_deref(), Some(&b"Kafka"[..]));
        assert!(binary[1].is_err());
        assert_eq!(v2("application/vnd.kafka.avro.v2+json", body).unwrap_err().0, 41501);
        assert_eq!(v2("application/vnd.kafka.json.v2+json", b"{}").unwrap_err().0, 42201);
    }

    #[test]
    fn v3_takes_records_one_after_the_other() {
        let body = br#"{"key":{"type":"STRING","data":"k"},"value":{"type":"JSON","data":{"a":1}},"headers":[{"name":"h","value":"Yg=="}],"timestamp":"2021-02-05T19:14:42Z"}
            {"value":{"type":"BINARY","data":"Zm9v"}} {"value":{"type":"AVRO","data":1}} {"value":"#;
        let records = v3(body);
        assert_eq!(records.len(), 4);
        let first = records[0].as_ref().unwrap();
        assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&br#"{"a":1}"#[..])));
        assert_eq!(first.headers, [("h".to_owned(), Some(b"b".to_vec()))]);
        assert_eq!(first.time, Some(Micros(1_612_552_482_000_000)));
        assert_eq!(records[1].as_ref().unwrap().value.as_deref(), Some(&b"foo"[..]));
        assert!(records[2].is_err() && records[3].is_err());
    }

    #[test]
    fn only_its_own_paths_are_asked_for() {
        assert_eq!(ask("POST", "/topics/orders"), Some(Ask::ProduceV2("orders")));
        assert_eq!(ask("POST", "/v3/clusters/millrace/topics/orders/records"), Some(Ask::ProduceV3("orders")));
        assert_eq!(ask("GET", "/v3/clusters"), Some(Ask::Clusters));
        assert_eq!(ask("GET", "/topics/orders"), None);
        assert_eq!(ask("POST", "/v3/clusters/other/topics/orders/records"), None);
    }
}
