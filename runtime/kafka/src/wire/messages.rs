//! The requests that this client sends, and what is read of their answers. Source: the message definitions of Apache Kafka 4.1.
//!
//! Each has one version: the last that every broker since 2.3 speaks and whose fields are fixed.

use crate::wire::fields::{Reader, Writer};
use std::fmt;

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Api {
    Produce,
    Fetch,
    Metadata,
    FindCoordinator,
    SaslHandshake,
    Versions,
    InitProducerId,
    AddPartitionsToTxn,
    EndTxn,
    SaslAuthenticate,
}

impl Api {
    /// Those that a broker must speak before anything is forwarded.
    pub const NEEDED: [Self; 7] =
        [Self::Produce, Self::Fetch, Self::Metadata, Self::FindCoordinator, Self::InitProducerId, Self::AddPartitionsToTxn, Self::EndTxn];

    pub const fn key(self) -> i16 {
        match self {
            Self::Produce => 0,
            Self::Fetch => 1,
            Self::Metadata => 3,
            Self::FindCoordinator => 10,
            Self::SaslHandshake => 17,
            Self::Versions => 18,
            Self::InitProducerId => 22,
            Self::AddPartitionsToTxn => 24,
            Self::EndTxn => 26,
            Self::SaslAuthenticate => 36,
        }
    }

    pub const fn version(self) -> i16 {
        match self {
            Self::Produce | Self::Metadata => 7,
            Self::Fetch => 11,
            Self::FindCoordinator | Self::AddPartitionsToTxn | Self::EndTxn => 2,
            Self::SaslHandshake | Self::InitProducerId | Self::SaslAuthenticate => 1,
            Self::Versions => 0,
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Versions => f.write_str("ApiVersions"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

/// The front of a request's frame, its length left open; [`seal`] closes it.
pub fn begin(api: Api, correlation: i32, client_id: &str) -> Writer {
    let mut out = Writer::default();
    out.i32(0).i16(api.key()).i16(api.version()).i32(correlation).str(client_id);
    out
}

/// Writes the length of a frame that is complete.
pub fn seal(frame: &mut [u8]) {
    let len = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
}

/// Writes a list of topics with a list of partitions each, out of places that are in the order of their topics.
fn by_topic<T>(out: &mut Writer, all: &[T], topic: impl Fn(&T) -> &str, mut one: impl FnMut(&mut Writer, &T)) {
    let groups = all.chunk_by(|a, b| topic(a) == topic(b));
    out.i32(groups.clone().count() as i32);
    for group in groups {
        out.str(topic(&group[0])).i32(group.len() as i32);
        group.iter().for_each(|each| one(out, each));
    }
}

/// Reads such a list.
fn topics<T>(from: &mut Reader<'_>, mut one: impl FnMut(&str, &mut Reader<'_>) -> Option<T>) -> Option<Vec<T>> {
    let lists = from.list(|from| {
        let topic = from.str()?;
        from.list(|from| one(topic, from))
    })?;
    Some(lists.into_iter().flatten().collect())
}

// ---- who speaks what, and who leads what ------------------------------------------------------------------------------------

/// A kind of request that a broker speaks, by its key, and the versions of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spoken {
    pub key: i16,
    pub first: i16,
    pub last: i16,
}

/// The error, and what the broker speaks.
pub fn api_versions(answer: &[u8]) -> Option<(i16, Vec<Spoken>)> {
    let mut from = Reader(answer);
    Some((from.i16()?, from.list(|from| Some(Spoken { key: from.i16()?, first: from.i16()?, last: from.i16()? }))?))
}

pub fn metadata(out: &mut Writer, topics: &[&str]) {
    out.i32(topics.len() as i32);
    topics.iter().for_each(|topic| {
        out.str(topic);
    });
    // Topics are made as they are declared, not by asking for them.
    out.i8(0);
}

/// What a cluster says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Node and `host:port`.
    pub brokers: Vec<(i32, String)>,
    pub partitions: Vec<Leader>,
    /// Topics that cannot be told of, and why.
    pub refused: Vec<(String, i16)>,
}

/// Who leads a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    pub topic: String,
    pub partition: i32,
    /// -1: nobody at the moment.
    pub node: i32,
    pub epoch: i32,
}

fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub fn metadata_answer(answer: &[u8]) -> Option<Metadata> {
    let mut from = Reader(answer);
    from.i32()?;
    let brokers = from.list(|from| {
        let (node, host, port) = (from.i32()?, from.str()?, from.i32()?);
        from.nullable()?;
        Some((node, address(host, port)))
    })?;
    from.nullable()?;
    from.i32()?;
    let mut refused = Vec::new();
    let partitions = from.list(|from| {
        let (error, topic) = (from.i16()?, from.str()?.to_owned());
        from.i8()?;
        if error != 0 {
            refused.push((topic.clone(), error));
        }
        from.list(|from| {
            from.i16()?;
            let leader = Leader { partition: from.i32()?, node: from.i32()?, epoch: from.i32()?, topic: topic.clone() };
            // Replicas, those in sync, those that are away.
            (0..3).try_for_each(|_| from.list(Reader::i32).map(|_| ()))?;
            Some(leader)
        })
    })?;
    Some(Metadata { brokers, partitions: partitions.into_iter().flatten().collect(), refused })
}

// ---- login ------------------------------------------------------------------------------------------------------------------

/// The error, and the mechanisms that the broker offers.
pub fn sasl_handshake_answer(answer: &[u8]) -> Option<(i16, Vec<String>)> {
    let mut from = Reader(answer);
    Some((from.i16()?, from.list(|from| Some(from.str()?.to_owned()))?))
}

/// The error, its words, and what the mechanism says.
pub fn sasl_authenticate_answer(answer: &[u8]) -> Option<(i16, String, Vec<u8>)> {
    let mut from = Reader(answer);
    Some((from.i16()?, from.nullable()?.unwrap_or_default().to_owned(), from.bytes()?.to_vec()))
}

// ---- fetch ------------------------------------------------------------------------------------------------------------------

/// What is wanted of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub epoch: i32,
    pub offset: i64,
}

/// `wanted` is in the order of its topics. Of a batch that is larger than its bound, a broker sends the first all the same.
pub fn fetch(out: &mut Writer, wanted: &[Wanted<'_>], wait_ms: i32, bytes: i32, partition_bytes: i32) {
    const COMMITTED: i8 = 1;
    out.i32(-1).i32(wait_ms).i32(1).i32(bytes).i8(COMMITTED).i32(0).i32(-1);
    by_topic(
        out,
        wanted,
        |one| one.topic,
        |out, one| {
            out.i32(one.partition).i32(one.epoch).i64(one.offset).i64(-1).i32(partition_bytes);
        },
    );
    out.i32(0).str("");
}

/// What a broker has of a partition; the records point into the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Had<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub error: i16,
    /// What is decided: behind the last record that a committed read sees.
    pub stable_end: i64,
    /// Of transactions that failed: their producer, and where each began.
    pub aborted: Vec<(i64, i64)>,
    pub records: &'a [u8],
}

pub fn fetch_answer(answer: &[u8]) -> Option<(i16, Vec<Had<'_>>)> {
    let mut from = Reader(answer);
    from.i32()?;
    let error = from.i16()?;
    from.i32()?;
    let lists = from.list(|from| {
        let topic = from.str()?;
        from.list(|from| {
            let (partition, error, _high, stable_end, _low) = (from.i32()?, from.i16()?, from.i64()?, from.i64()?, from.i64()?);
            let aborted = from.list(|from| Some((from.i64()?, from.i64()?)))?;
            from.i32()?;
            Some(Had { topic, partition, error, stable_end, aborted, records: from.bytes()? })
        })
    })?;
    Some((error, lists.into_iter().flatten().collect()))
}

// ---- produce ----------------------------------------------------------------------------------------------------------------

/// One batch: its header as it is sent, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub head: &'a [u8],
    pub records: &'a [u8],
}

/// `batches` are in the order of their topics, one of each partition.
pub fn produce(out: &mut Writer, transactional_id: Option<&str>, timeout_ms: i32, batches: &[Sent<'_>]) {
    const ALL: i16 = -1;
    out.nullable(transactional_id).i16(ALL).i32(timeout_ms);
    by_topic(
        out,
        batches,
        |one| one.topic,
        |out, one| {
            out.i32(one.partition).bytes(&[one.head, one.records]);
        },
    );
}

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub topic: String,
    pub partition: i32,
    pub error: i16,
    /// Where its first record lies.
    pub base_offset: i64,
}

pub fn produce_answer(answer: &[u8]) -> Option<Vec<Written>> {
    topics(&mut Reader(answer), |topic, from| {
        let written = Written { topic: topic.to_owned(), partition: from.i32()?, error: from.i16()?, base_offset: from.i64()? };
        from.i64()?;
        from.i64()?;
        Some(written)
    })
}

// ---- transactions -----------------------------------------------------------------------------------------------------------

pub fn find_coordinator(out: &mut Writer, transactional_id: &str) {
    const TRANSACTION: i8 = 1;
    out.str(transactional_id).i8(TRANSACTION);
}

/// The error, and the coordinator's node and address.
pub fn find_coordinator_answer(answer: &[u8]) -> Option<(i16, i32, String)> {
    let mut from = Reader(answer);
    from.i32()?;
    let error = from.i16()?;
    from.nullable()?;
    Some((error, from.i32()?, address(from.str()?, from.i32()?)))
}

pub fn init_producer_id(out: &mut Writer, transactional_id: Option<&str>, timeout_ms: i32) {
    out.nullable(transactional_id).i32(timeout_ms);
}

/// The error, the producer's id and its epoch.
pub fn init_producer_id_answer(answer: &[u8]) -> Option<(i16, i64, i16)> {
    let mut from = Reader(answer);
    from.i32()?;
    Some((from.i16()?, from.i64()?, from.i16()?))
}

/// `parts` are in the order of their topics.
pub fn add_partitions(out: &mut Writer, transactional_id: &str, producer: (i64, i16), parts: &[(&str, i32)]) {
    out.str(transactional_id).i64(producer.0).i16(producer.1);
    by_topic(
        out,
        parts,
        |(topic, _)| topic,
        |out, (_, partition)| {
            out.i32(*partition);
        },
    );
}

/// Of each partition the error.
pub fn add_partitions_answer(answer: &[u8]) -> Option<Vec<(String, i32, i16)>> {
    let mut from = Reader(answer);
    from.i32()?;
    topics(&mut from, |topic, from| Some((topic.to_owned(), from.i32()?, from.i16()?)))
}

pub fn end_transaction(out: &mut Writer, transactional_id: &str, producer: (i64, i16), commits: bool) {
    out.str(transactional_id).i64(producer.0).i16(producer.1).i8(i8::from(commits));
}

pub fn end_transaction_answer(answer: &[u8]) -> Option<i16> {
    let mut from = Reader(answer);
    from.i32()?;
    from.i16()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use kafka_protocol::messages::{
        AddPartitionsToTxnRequest, BrokerId, EndTxnRequest, FetchRequest, FetchResponse, FindCoordinatorRequest, InitProducerIdRequest,
        MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, TopicName,
    };
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

    fn name(text: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(text))
    }

    /// What a foreign decoder makes of a request; to the last byte.
    fn decoded<T: Decodable>(api: Api, body: impl FnOnce(&mut Writer)) -> T {
        let mut frame = begin(api, 7, "us");
        body(&mut frame);
        seal(&mut frame.0);
        let mut bytes = Bytes::from(frame.0).slice(4..);
        let header = RequestHeader::decode(&mut bytes, 1).expect("a header");
        assert_eq!((header.request_api_key, header.request_api_version, header.correlation_id), (api.key(), api.version(), 7));
        let request = T::decode(&mut bytes, api.version()).expect("a request");
        assert!(bytes.is_empty(), "{api}: {} bytes are left", bytes.len());
        request
    }

    fn encoded<T: Encodable>(api: Api, answer: &T) -> Bytes {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes, api.version()).expect("an answer can be encoded");
        bytes.freeze()
    }

    #[test]
    fn a_foreign_decoder_reads_our_requests_to_the_last_byte() {
        let wanted = [("a", 0, 5), ("a", 3, 6), ("b", 1, 7)];
        let wanted = wanted.map(|(topic, partition, offset)| Wanted { topic, partition, epoch: 2, offset });
        let request: FetchRequest = decoded(Api::Fetch, |out| fetch(out, &wanted, 500, 1_000, 100));
        assert_eq!((request.isolation_level, request.max_bytes, request.max_wait_ms, request.session_epoch), (1, 1_000, 500, -1));
        let places: Vec<_> =
            request.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), p.partition, p.fetch_offset))).collect();
        assert_eq!(places, [("a".into(), 0, 5), ("a".into(), 3, 6), ("b".into(), 1, 7)]);

        let batches = [("a", 0), ("a", 1), ("b", 0)].map(|(topic, partition)| Sent { topic, partition, head: b"he", records: b"ad" });
        let request: ProduceRequest = decoded(Api::Produce, |out| produce(out, Some("id"), 9, &batches));
        assert_eq!((request.acks, request.timeout_ms, request.transactional_id.map(|id| id.to_string())), (-1, 9, Some("id".into())));
        assert_eq!(request.topic_data.iter().map(|topic| topic.partition_data.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(request.topic_data[1].partition_data[0].records.as_deref(), Some(&b"head"[..]));

        let request: MetadataRequest = decoded(Api::Metadata, |out| metadata(out, &["a", "b"]));
        assert_eq!((request.topics.map(|topics| topics.len()), request.allow_auto_topic_creation), (Some(2), false));
        let request: FindCoordinatorRequest = decoded(Api::FindCoordinator, |out| find_coordinator(out, "id"));
        assert_eq!((&*request.key, request.key_type), ("id", 1));
        let request: InitProducerIdRequest = decoded(Api::InitProducerId, |out| init_producer_id(out, None, 1));
        assert_eq!((request.transactional_id, request.transaction_timeout_ms), (None, 1));
        let request: AddPartitionsToTxnRequest =
            decoded(Api::AddPartitionsToTxn, |out| add_partitions(out, "id", (8, 3), &[("a", 1), ("a", 2)]));
        assert_eq!((request.v3_and_below_producer_id.0, request.v3_and_below_topics[0].partitions.clone()), (8, vec![1, 2]));
        let request: EndTxnRequest = decoded(Api::EndTxn, |out| end_transaction(out, "id", (8, 3), true));
        assert_eq!((request.producer_id.0, request.producer_epoch, request.committed), (8, 3, true));
    }

    #[test]
    fn the_answers_of_a_foreign_encoder_are_read_and_a_cut_one_is_none() {
        let aborted = AbortedTransaction::default().with_producer_id(4.into()).with_first_offset(9);
        let part = PartitionData::default().with_partition_index(3).with_last_stable_offset(11).with_high_watermark(12);
        let part = part.with_aborted_transactions(Some(vec![aborted])).with_records(Some(Bytes::from_static(b"records")));
        let topic = FetchableTopicResponse::default().with_topic(name("a")).with_partitions(vec![part]);
        let answer = encoded(Api::Fetch, &FetchResponse::default().with_responses(vec![topic]));
        let had = Had { topic: "a", partition: 3, error: 0, stable_end: 11, aborted: vec![(4, 9)], records: b"records" };
        assert_eq!(fetch_answer(&answer), Some((0, vec![had])));
        for len in 0..answer.len() {
            assert_eq!(fetch_answer(&answer[..len]), None, "{len}");
        }

        let part = PartitionProduceResponse::default().with_index(1).with_error_code(6).with_base_offset(40);
        let topic = TopicProduceResponse::default().with_name(name("a")).with_partition_responses(vec![part]);
        let answer = encoded(Api::Produce, &ProduceResponse::default().with_responses(vec![topic]));
        assert_eq!(produce_answer(&answer), Some(vec![Written { topic: "a".into(), partition: 1, error: 6, base_offset: 40 }]));

        let broker = MetadataResponseBroker::default().with_node_id(BrokerId(5)).with_host("::1".into()).with_port(9092);
        let part = MetadataResponsePartition::default().with_partition_index(2).with_leader_id(BrokerId(5)).with_leader_epoch(7);
        let part = part.with_replica_nodes(vec![BrokerId(5), BrokerId(6)]);
        let topics = vec![
            MetadataResponseTopic::default().with_name(Some(name("a"))).with_partitions(vec![part]),
            MetadataResponseTopic::default().with_name(Some(name("b"))).with_error_code(29),
        ];
        let answer = encoded(Api::Metadata, &MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics));
        let told = metadata_answer(&answer).unwrap();
        assert_eq!(told.brokers, [(5, "[::1]:9092".to_owned())]);
        assert_eq!(told.partitions, [Leader { topic: "a".into(), partition: 2, node: 5, epoch: 7 }]);
        assert_eq!(told.refused, [("b".to_owned(), 29)]);
    }
}
