//! What takes memory: batches of a few kilobytes that are a thousand times larger inside, in every codec, from many clients at once; and what clients have
//! remembered.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millrace_broker::{Broker, Options};

const CODECS: [(i16, &str); 4] = [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")];
const POLICY_VIOLATION: i16 = 44;
const GROUP_MAX_SIZE_REACHED: i16 = 81;
const INVALID_RECORD: i16 = 87;
const CLIENTS: usize = 6;
const CHUNK: usize = 128 << 10;

fn ask(stream: &mut TcpStream, key: ApiKey, version: i16, request: &impl Encodable) -> Bytes {
    let mut frame = BytesMut::from(&[0; 4][..]);
    let header = RequestHeader::default().with_request_api_key(key as i16).with_request_api_version(version).with_correlation_id(1);
    header.encode(&mut frame, key.request_header_version(version)).unwrap();
    request.encode(&mut frame, version).unwrap();
    let len = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    stream.write_all(&frame).unwrap();
    let mut len = [0; 4];
    std::io::Read::read_exact(stream, &mut len).unwrap();
    let mut answer = vec![0; i32::from_be_bytes(len) as usize];
    std::io::Read::read_exact(stream, &mut answer).unwrap();
    let mut answer = Bytes::from(answer);
    answer.advance(4);
    answer
}

fn varint(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// One record with a key, whose value is so many zeros: what stands before the zeros. No headers are told after them: a zero says so.
fn head(zeros: usize) -> Vec<u8> {
    let mut body = vec![0, 0, 0]; // attributes, time and offset deltas
    varint(1, &mut body);
    body.push(b'k');
    varint(zeros as i64 - 1, &mut body);
    let mut out = Vec::new();
    varint((body.len() + zeros) as i64, &mut out);
    out.extend(body);
    out
}

fn packed(codec: i16, zeros: usize) -> Vec<u8> {
    let chunks = |out: &mut dyn Write| {
        out.write_all(&head(zeros)).unwrap();
        (0..zeros / CHUNK).for_each(|_| out.write_all(&[0; CHUNK]).unwrap());
    };
    match codec {
        1 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            chunks(&mut out);
            out.finish().unwrap()
        }
        2 => {
            let mut whole = Vec::new();
            chunks(&mut whole);
            snap::raw::Encoder::new().compress_vec(&whole).unwrap()
        }
        3 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            chunks(&mut out);
            out.finish().unwrap()
        }
        _ => {
            // RFC 8878: a frame with a window of 128 KiB, a raw block, and blocks that repeat one byte.
            let block = |is_last: bool, kind: u32, size: usize| {
                let head = u32::from(is_last) | kind << 1 | (size as u32) << 3;
                head.to_le_bytes()[..3].to_vec()
            };
            let head = head(zeros);
            let mut out = vec![0x28, 0xB5, 0x2F, 0xFD, 0, 7 << 3];
            out.extend(block(false, 0, head.len()));
            out.extend(head);
            for i in 1..=zeros / CHUNK {
                out.extend(block(i == zeros / CHUNK, 1, CHUNK));
                out.push(0);
            }
            out
        }
    }
}

/// A batch of one record. Source: Kafka protocol guide, "Record Batch".
fn batch(codec: i16, packed: &[u8]) -> Bytes {
    let mut behind_crc = Vec::new();
    behind_crc.extend(codec.to_be_bytes());
    behind_crc.extend(0_i32.to_be_bytes()); // last offset delta
    (0..2).for_each(|_| behind_crc.extend(1_700_000_000_000_i64.to_be_bytes()));
    behind_crc.extend((-1_i64).to_be_bytes());
    behind_crc.extend((-1_i16).to_be_bytes());
    behind_crc.extend((-1_i32).to_be_bytes());
    behind_crc.extend(1_i32.to_be_bytes());
    behind_crc.extend(packed);
    let mut out = vec![0; 8];
    out.extend((behind_crc.len() as i32 + 9).to_be_bytes());
    out.extend([0, 0, 0, 0, 2]);
    out.extend(crc32c::crc32c(&behind_crc).to_be_bytes());
    out.extend(behind_crc);
    out.into()
}

fn produce(stream: &mut TcpStream, records: Bytes) -> i16 {
    let partition = PartitionProduceData::default().with_records(Some(records));
    let topic = TopicName(StrBytes::from_static_str("compacted"));
    let data = TopicProduceData::default().with_name(topic).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![data]);
    let mut answer = ask(stream, ApiKey::Produce, 7, &request);
    ProduceResponse::decode(&mut answer, 7).unwrap().responses[0].partition_responses[0].error_code
}

fn options() -> (tempfile::TempDir, Options) {
    let dir = tempfile::tempdir().unwrap();
    let options = options_in(dir.path());
    (dir, options)
}

fn options_in(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: millrace_log::KeepFree::Bytes(0),
        security: None,
    }
}

/// Makes the topic `compacted`.
fn create(client: &mut TcpStream, partitions: i32) {
    let setting = |name: &str, value: &str| {
        let (name, value) = (StrBytes::from_string(name.to_owned()), StrBytes::from_string(value.to_owned()));
        CreatableTopicConfig::default().with_name(name).with_value(Some(value))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("compacted")))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(vec![setting("cleanup.policy", "compact"), setting("max.message.bytes", "20000000")]);
    let create = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
    let created = CreateTopicsResponse::decode(&mut ask(client, ApiKey::CreateTopics, 4, &create), 4).unwrap();
    assert_eq!(created.topics[0].error_code, 0, "{created:?}");
}

/// Tests that measure the memory of this process run one after the other.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Memory of this process in bytes: `VmRSS`, or `VmHWM` since its peak was forgotten.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_grows_a_thousandfold_when_it_is_unpacked_takes_little_memory_in_every_codec() {
    let (_dir, options) = options();
    let broker = Broker::start(options).await.unwrap();
    let address = broker.listening();
    let tested = tokio::task::spawn_blocking(move || {
        let _alone = ALONE.lock().unwrap();
        let mut good = TcpStream::connect(address).unwrap();
        create(&mut good, 1);
        for (codec, name) in CODECS {
            for (zeros, expected) in [(16 << 20, 0), (192 << 20, INVALID_RECORD)] {
                let bomb = batch(codec, &packed(codec, zeros));
                let _ = std::fs::write("/proc/self/clear_refs", "5");
                let before = memory("VmRSS");
                std::thread::scope(|scope| {
                    let one = || produce(&mut TcpStream::connect(address).unwrap(), bomb.clone());
                    let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
                    let metadata = MetadataRequest::default().with_topics(Some(Vec::new()));
                    assert!(ask(&mut good, ApiKey::Metadata, 1, &metadata).len() > 10, "others are served meanwhile");
                    for client in clients {
                        assert_eq!(client.join().unwrap(), expected, "{name}, {} bytes that become {zeros}", bomb.len());
                    }
                });
                let grown = memory("VmHWM").saturating_sub(before) >> 20;
                println!("{name}: {} bytes become {} MiB, {CLIENTS} at once: {grown} MiB more", bomb.len(), zeros >> 20);
                // What lies on the wire is held once per client; what is unpacked, once.
                let wire = (2 * CLIENTS * bomb.len()) as u64 >> 20;
                assert!(grown < 96 + wire, "{name}, {zeros} zeros: {grown} MiB more");
            }
        }
    });
    tested.await.unwrap();
    broker.stop().await.unwrap();
}

/// Offsets with the longest texts, ids as long as they may be, members with large subscriptions: for each there is an end, and what was there goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_have_remembered_has_a_bound() {
    let (dir, options) = options();
    let broker = Broker::start(options).await.unwrap();
    let address = broker.listening();
    let tested = tokio::task::spawn_blocking(move || {
        let _alone = ALONE.lock().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        create(&mut client, 500);
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = memory("VmRSS");
        let text = |text: String| StrBytes::from_string(text);
        let mut commit = |group: usize, metadata: usize| {
            let partition = |index| {
                let one = OffsetCommitRequestPartition::default().with_partition_index(index);
                one.with_committed_offset(1).with_committed_metadata(Some(text("m".repeat(metadata))))
            };
            let topic = TopicName(StrBytes::from_static_str("compacted"));
            let topic = OffsetCommitRequestTopic::default().with_name(topic).with_partitions((0..500).map(partition).collect());
            let request = OffsetCommitRequest::default()
                .with_group_id(GroupId(text(format!("group-{group}"))))
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic]);
            let mut answer = ask(&mut client, ApiKey::OffsetCommit, 7, &request);
            OffsetCommitResponse::decode(&mut answer, 7).unwrap().topics[0].partitions[0].error_code
        };
        let outcomes: Vec<i16> = (0..20).map(|group| commit(group, 4_000)).collect();
        assert_eq!((outcomes[0], outcomes[19]), (0, POLICY_VIOLATION), "{outcomes:?}");
        assert_eq!((commit(0, 4_000), commit(0, 10)), (0, 0), "who has an offset moves it");
        let mut init = |n: usize| {
            let id = TransactionalId(text(format!("{n}-{}", "i".repeat(30_000))));
            let request = InitProducerIdRequest::default().with_transactional_id(Some(id)).with_transaction_timeout_ms(60_000);
            let mut answer = ask(&mut client, ApiKey::InitProducerId, 1, &request);
            InitProducerIdResponse::decode(&mut answer, 1).unwrap().error_code
        };
        let outcomes: Vec<i16> = (0..600).map(&mut init).collect();
        assert_eq!((outcomes[0], outcomes[599]), (0, POLICY_VIOLATION));
        assert_eq!(init(0), 0, "who was there begins anew");
        let mut join = |n: usize| {
            let protocol = JoinGroupRequestProtocol::default().with_name(text("range".to_owned())).with_metadata(vec![7; 200_000].into());
            let request = JoinGroupRequest::default()
                .with_group_id(GroupId(text(format!("joined-{n}"))))
                .with_session_timeout_ms(600_000)
                .with_rebalance_timeout_ms(600_000)
                .with_protocol_type(text("consumer".to_owned()))
                .with_protocols(vec![protocol]);
            let mut answer = ask(&mut client, ApiKey::JoinGroup, 3, &request);
            JoinGroupResponse::decode(&mut answer, 3).unwrap().error_code
        };
        let outcomes: Vec<i16> = (0..200).map(&mut join).collect();
        assert_eq!(outcomes[199], GROUP_MAX_SIZE_REACHED, "{outcomes:?}");
        let grown = memory("VmHWM").saturating_sub(before) >> 20;
        println!("{grown} MiB more");
        assert!(grown < 128, "{grown} MiB more");
    });
    tested.await.unwrap();
    broker.stop().await.unwrap();
    drop(broker);
    // All of it is there again, and no more.
    Broker::start(options_in(dir.path())).await.unwrap().stop().await.unwrap();
}
