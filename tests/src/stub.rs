//! A receiver that acknowledges and discards: enough of Kafka's protocol for a producer and its start-up, and nothing else.
//!
//! So that a benchmark of producers measures producers. Every topic exists with six partitions; produced batches are counted, not read; a
//! consumer finds every topic empty. Transactions are not spoken. A process of its own (`bench stub PORT`), one thread per connection.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{self, ApiKey, BrokerId, ProducerId, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub const PARTITIONS: i32 = 6;

/// What is spoken, each with its highest version.
const SPOKEN: [(ApiKey, i16); 11] = [
    (ApiKey::Produce, 9),
    (ApiKey::Fetch, 11),
    (ApiKey::ListOffsets, 6),
    (ApiKey::Metadata, 9),
    (ApiKey::FindCoordinator, 3),
    (ApiKey::ApiVersions, 3),
    (ApiKey::CreateTopics, 5),
    (ApiKey::InitProducerId, 3),
    (ApiKey::DescribeConfigs, 2),
    (ApiKey::OffsetFetch, 6),
    (ApiKey::OffsetCommit, 7),
];

/// What has been received.
#[derive(Debug, Default)]
pub struct Received {
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    producers: AtomicI64,
    offset: AtomicI64,
}

/// Serves for ever on a port of 127.0.0.1. `report` sees the counts whenever they are asked for by a line `count` on the port above.
pub fn serve(port: u16) -> std::io::Result<()> {
    let received = Arc::new(Received::default());
    let counts = TcpListener::bind(("127.0.0.1", port + 1))?;
    let asked = received.clone();
    std::thread::spawn(move || {
        for stream in counts.incoming().flatten() {
            let mut stream = stream;
            let _ = writeln!(stream, "{} {}", asked.records.load(Relaxed), asked.bytes.load(Relaxed));
        }
    });
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let (stream, received) = (stream?, received.clone());
        std::thread::spawn(move || {
            let _ = converse(stream, port, &received);
        });
    }
    Ok(())
}

/// Records and bytes received so far by the stub on this port.
pub fn counts(port: u16) -> std::io::Result<(u64, u64)> {
    let mut text = String::new();
    TcpStream::connect(("127.0.0.1", port + 1))?.read_to_string(&mut text)?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

fn converse(mut stream: TcpStream, port: u16, received: &Received) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut length = [0; 4];
    loop {
        stream.read_exact(&mut length)?;
        let mut request = BytesMut::zeroed(u32::from_be_bytes(length) as usize);
        stream.read_exact(&mut request)?;
        if let Some(response) = answer(request.freeze(), port, received) {
            stream.write_all(&response)?;
        }
    }
}

/// The frame of the answer; `None` where none is wanted (`acks=0`). What is not spoken ends the connection by a panic of its thread.
fn answer(mut request: Bytes, port: u16, received: &Received) -> Option<BytesMut> {
    let (key, version) = (i16::from_be_bytes([request[0], request[1]]), i16::from_be_bytes([request[2], request[3]]));
    let api = ApiKey::try_from(key).expect("a known API");
    let header = RequestHeader::decode(&mut request, api.request_header_version(version)).expect("a header");
    let highest = SPOKEN.iter().find(|(spoken, _)| *spoken == api).map_or(-1, |(_, highest)| *highest);
    let mut out = BytesMut::from(&[0; 4][..]);
    let mut head = ResponseHeader::default();
    head.correlation_id = header.correlation_id;
    let too_new = version > highest;
    assert!(!too_new || api == ApiKey::ApiVersions, "{api:?} {version} is not spoken");
    // ApiVersions is answered in the old format, error 35, where it is too new.
    let version = if too_new { 0 } else { version };
    head.encode(&mut out, api.response_header_version(version)).expect("a header can be written");
    macro_rules! reply {
        ($response:expr) => {
            $response.encode(&mut out, version).expect("an answer can be written")
        };
    }
    match api {
        ApiKey::ApiVersions => {
            let mut response = messages::ApiVersionsResponse::default();
            response.error_code = if too_new { 35 } else { 0 };
            for (spoken, highest) in SPOKEN {
                let mut one = messages::api_versions_response::ApiVersion::default();
                one.api_key = spoken as i16;
                one.min_version = spoken.valid_versions().min;
                one.max_version = highest;
                response.api_keys.push(one);
            }
            reply!(response);
        }
        ApiKey::Metadata => {
            let asked = messages::MetadataRequest::decode(&mut request, version).expect("a request");
            reply!(metadata(asked, port));
        }
        ApiKey::InitProducerId => {
            let mut response = messages::InitProducerIdResponse::default();
            response.producer_id = ProducerId(received.producers.fetch_add(1, Relaxed) + 1);
            reply!(response);
        }
        ApiKey::Produce => {
            let asked = messages::ProduceRequest::decode(&mut request, version).expect("a request");
            let wants_answer = asked.acks != 0;
            reply!(produce(&asked, received));
            if !wants_answer {
                return None;
            }
        }
        ApiKey::ListOffsets => {
            let asked = messages::ListOffsetsRequest::decode(&mut request, version).expect("a request");
            reply!(list_offsets(&asked));
        }
        ApiKey::Fetch => {
            let asked = messages::FetchRequest::decode(&mut request, version).expect("a request");
            std::thread::sleep(Duration::from_millis(asked.max_wait_ms.clamp(0, 500) as u64));
            reply!(fetch(&asked));
        }
        ApiKey::CreateTopics => {
            let asked = messages::CreateTopicsRequest::decode(&mut request, version).expect("a request");
            let mut response = messages::CreateTopicsResponse::default();
            for topic in asked.topics {
                let mut one = messages::create_topics_response::CreatableTopicResult::default();
                one.name = topic.name;
                one.error_code = 0;
                response.topics.push(one);
            }
            reply!(response);
        }
        ApiKey::DescribeConfigs => {
            let asked = messages::DescribeConfigsRequest::decode(&mut request, version).expect("a request");
            let mut response = messages::DescribeConfigsResponse::default();
            for resource in asked.resources {
                let mut one = messages::describe_configs_response::DescribeConfigsResult::default();
                (one.resource_type, one.resource_name) = (resource.resource_type, resource.resource_name);
                response.results.push(one);
            }
            reply!(response);
        }
        ApiKey::FindCoordinator => {
            let mut response = messages::FindCoordinatorResponse::default();
            (response.node_id, response.host, response.port) = (BrokerId(1), StrBytes::from_static_str("127.0.0.1"), port.into());
            reply!(response);
        }
        other => panic!("{other:?} is not spoken"),
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Some(out)
}

fn metadata(asked: messages::MetadataRequest, port: u16) -> messages::MetadataResponse {
    let mut response = messages::MetadataResponse::default();
    let mut broker = messages::metadata_response::MetadataResponseBroker::default();
    (broker.node_id, broker.host, broker.port) = (BrokerId(1), StrBytes::from_static_str("127.0.0.1"), port.into());
    response.brokers.push(broker);
    response.controller_id = BrokerId(1);
    response.cluster_id = Some(StrBytes::from_static_str("stub"));
    let names: Vec<TopicName> = asked.topics.into_iter().flatten().filter_map(|topic| topic.name).collect();
    for name in names {
        let mut topic = messages::metadata_response::MetadataResponseTopic::default();
        topic.name = Some(name);
        for index in 0..PARTITIONS {
            let mut partition = messages::metadata_response::MetadataResponsePartition::default();
            (partition.partition_index, partition.leader_id) = (index, BrokerId(1));
            partition.replica_nodes = vec![BrokerId(1)];
            partition.isr_nodes = vec![BrokerId(1)];
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}

fn produce(asked: &messages::ProduceRequest, received: &Received) -> messages::ProduceResponse {
    let mut response = messages::ProduceResponse::default();
    for topic in &asked.topic_data {
        let mut answered = messages::produce_response::TopicProduceResponse::default();
        answered.name = topic.name.clone();
        for partition in &topic.partition_data {
            let mut one = messages::produce_response::PartitionProduceResponse::default();
            one.index = partition.index;
            if let Some(batch) = partition.records.as_ref().filter(|batch| batch.len() > 61) {
                // The number of records stands at byte 57 of a batch (KIP-98).
                let records = u64::from((&batch[57..61]).get_u32());
                received.records.fetch_add(records, Relaxed);
                received.bytes.fetch_add(batch.len() as u64, Relaxed);
                one.base_offset = received.offset.fetch_add(records as i64, Relaxed);
            }
            answered.partition_responses.push(one);
        }
        response.responses.push(answered);
    }
    response
}

fn list_offsets(asked: &messages::ListOffsetsRequest) -> messages::ListOffsetsResponse {
    let mut response = messages::ListOffsetsResponse::default();
    for topic in &asked.topics {
        let mut answered = messages::list_offsets_response::ListOffsetsTopicResponse::default();
        answered.name = topic.name.clone();
        for partition in &topic.partitions {
            let mut one = messages::list_offsets_response::ListOffsetsPartitionResponse::default();
            (one.partition_index, one.offset, one.timestamp) = (partition.partition_index, 0, -1);
            answered.partitions.push(one);
        }
        response.topics.push(answered);
    }
    response
}

fn fetch(asked: &messages::FetchRequest) -> messages::FetchResponse {
    let mut response = messages::FetchResponse::default();
    for topic in &asked.topics {
        let mut answered = messages::fetch_response::FetchableTopicResponse::default();
        answered.topic = topic.topic.clone();
        for partition in &topic.partitions {
            let mut one = messages::fetch_response::PartitionData::default();
            one.partition_index = partition.partition;
            one.records = Some(Bytes::new());
            answered.partitions.push(one);
        }
        response.responses.push(answered);
    }
    response
}
