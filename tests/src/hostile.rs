//! Clients that mean harm: the frames of a good one, mutated.

use bytes::BytesMut;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where something listens on 127.0.0.1, and what its clients send.
pub struct Listener {
    pub port: u16,
    pub frames: Vec<Vec<u8>>,
}

fn frame(key: ApiKey, version: i16, body: &impl Encodable) -> Vec<u8> {
    let mut out = BytesMut::from(&[0; 4][..]);
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("attack")));
    header.encode(&mut out, key.request_header_version(version)).expect("a header can be written");
    body.encode(&mut out, version).expect("a request can be written");
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.to_vec()
}

/// Requests of a Kafka client, in one version of each.
pub fn kafka_frames(topic: &str) -> Vec<Vec<u8>> {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let group = GroupId(StrBytes::from_static_str("attackers"));
    let metadata = MetadataRequest::default()
        .with_topics(Some(vec![metadata_request::MetadataRequestTopic::default().with_name(Some(name.clone()))]))
        .with_allow_auto_topic_creation(false);
    let records = bytes::Bytes::from(vec![2; 300]);
    let partition = produce_request::PartitionProduceData::default().with_records(Some(records));
    let produce = ProduceRequest::default()
        .with_acks(1)
        .with_timeout_ms(100)
        .with_topic_data(vec![produce_request::TopicProduceData::default().with_name(name.clone()).with_partition_data(vec![partition])]);
    let wanted = fetch_request::FetchPartition::default().with_partition_max_bytes(1 << 20);
    let fetch = FetchRequest::default()
        .with_max_wait_ms(10)
        .with_max_bytes(1 << 20)
        .with_topics(vec![fetch_request::FetchTopic::default().with_topic(name.clone()).with_partitions(vec![wanted])]);
    let offsets = ListOffsetsRequest::default().with_topics(vec![
        list_offsets_request::ListOffsetsTopic::default()
            .with_name(name)
            .with_partitions(vec![list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1)]),
    ]);
    let protocol = join_group_request::JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(vec![0; 20].into());
    let join = JoinGroupRequest::default()
        .with_group_id(group)
        .with_session_timeout_ms(6_000)
        .with_rebalance_timeout_ms(100)
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("attack"))))
        .with_transaction_timeout_ms(1_000);
    vec![
        frame(ApiKey::ApiVersions, 3, &ApiVersionsRequest::default()),
        frame(ApiKey::Metadata, 9, &metadata),
        frame(ApiKey::Produce, 9, &produce),
        frame(ApiKey::Fetch, 11, &fetch),
        frame(ApiKey::ListOffsets, 5, &offsets),
        frame(ApiKey::JoinGroup, 5, &join),
        frame(ApiKey::InitProducerId, 3, &init),
    ]
}

/// Requests of an HTTP client: method, path, body.
pub fn http_frames(requests: &[(&str, &str, &str)]) -> Vec<Vec<u8>> {
    let request = |(method, path, body): &(&str, &str, &str)| {
        let head = "Host: 127.0.0.1\r\nContent-Type: application/vnd.schemaregistry.v1+json";
        format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    requests.iter().map(request).collect()
}

/// A frame, or what is left of it.
fn mutated(frames: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = frames[rng.usize(..frames.len())].clone();
    match rng.u8(..10) {
        0 => bytes.truncate(rng.usize(..bytes.len())),
        1 => {
            let length = rng.usize(1..2_000);
            bytes = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        }
        2 => {
            let other = &frames[rng.usize(..frames.len())];
            bytes.truncate(rng.usize(..bytes.len()));
            bytes.extend_from_slice(&other[rng.usize(..other.len())..]);
        }
        3 => {
            // A number is as large as it can be: a length, a count, an offset.
            let at = rng.usize(..bytes.len());
            bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0x7F);
        }
        _ => {
            for _ in 0..rng.usize(1..8) {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
        }
    }
    bytes
}

/// Sends mutated frames on one connection after the other for as long as it shall; returns how many.
pub fn attack(listener: &Listener, seed: u64, goes_on: impl Fn() -> bool) -> u64 {
    let (mut rng, mut sent, mut answer) = (fastrand::Rng::with_seed(seed), 0, vec![0; 64 << 10]);
    while goes_on() {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", listener.port)) else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        for _ in 0..rng.usize(1..50) {
            if stream.write_all(&mutated(&listener.frames, &mut rng)).is_err() {
                break;
            }
            sent += 1;
            // Some read what is answered, some never do.
            if rng.bool() && stream.read(&mut answer).is_ok_and(|read| read == 0) {
                break;
            }
        }
    }
    sent
}
