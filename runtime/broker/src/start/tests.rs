//! A broker whose disk is full.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use millrace_log::faulty::{FaultyFs, Plan};
use std::collections::BTreeMap;

use super::*;
use crate::call::{Call, Reply, Session};
use crate::clock::now;
use crate::group::groups::Move;
use crate::group::membership::Speaker;
use crate::group::stored::Committed;
use crate::storage::batch::{Header, sample};
use millrace_log::ReadBuf;

const DISK: u64 = 4 << 20;
const KEPT: u64 = 1 << 20;

async fn start(disk: &FaultyFs, dir: &Path) -> Arc<Broker> {
    let options = Options {
        dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: KeepFree::Bytes(KEPT),
        security: None,
    };
    Broker::start_on(Arc::new(disk.clone()), options).await.unwrap()
}

/// What a producer of the topic `t` is told.
async fn produce(broker: &Arc<Broker>) -> i16 {
    let here = broker.listening();
    let session =
        Session { peer: here, local: here, login: Mutex::default(), sends_bare_tokens: Default::default(), produces: Default::default() };
    let call = Call { broker: broker.clone(), session: session.into(), key: ApiKey::Produce, version: 7, correlation: 1, client_id: None };
    let records = Some(sample(120, (-1, -1, -1), false).into());
    let partition = PartitionProduceData::default().with_records(records);
    let topic = TopicName(StrBytes::from_static_str("t"));
    let data = TopicProduceData::default().with_name(topic).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![data]);
    match crate::api::produce::produce(&call, request).await {
        Reply::Answer(answer) => answer.responses[0].partition_responses[0].error_code,
        _ => panic!("acks=all wants an answer"),
    }
}

/// Produces until the disk is full; returns how many batches it took.
async fn fill(broker: &Arc<Broker>) -> usize {
    let mut acknowledged = 0;
    loop {
        match produce(broker).await {
            0 => acknowledged += 1,
            code => {
                assert_eq!(code, ResponseError::KafkaStorageError.code());
                return acknowledged;
            }
        }
    }
}

fn stored(broker: &Broker) -> usize {
    let Ok(partition) = broker.topics.partition("t", 0) else { return 0 };
    let (mut buf, mut from, mut count) = (ReadBuf::new(), partition.start(), 0);
    while partition.read_batches(from, 1 << 20, &mut buf).unwrap() > 0 {
        for batch in buf.batches() {
            Header::check(batch.payload).expect("a stored batch is whole");
            (from, count) = (batch.next, count + 1);
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_end_on_a_full_disk_by_what_is_kept_free_and_wait_where_that_is_used_up() {
    let (disk, dir) = (FaultyFs::new(11), tempfile::tempdir().unwrap());
    disk.plan(Plan { capacity: DISK, ..Plan::default() });
    let broker = start(&disk, dir.path()).await;
    broker.topics.create("t", 1, BTreeMap::new()).await.unwrap();
    let mut open = Vec::new();
    for id in ["commits", "aborts", "waits"] {
        let who = broker.init_producer(id, 60_000, None).await.unwrap();
        broker.transactions.add_partitions(id, who, &[("t".to_owned(), 0)]).await.unwrap();
        let batch = sample(1, (who.producer_id, who.epoch, 0), true);
        let (partition, config) = (broker.topics.partition("t", 0).unwrap(), broker.topics.get("t").unwrap().config());
        partition.append(&Header::check(&batch).unwrap(), &batch, &config, now(), || Ok(())).unwrap();
        open.push((id, who));
    }
    fill(&broker).await;
    let is_open = |index: usize| {
        let producer = open[index].1.producer_id;
        broker.topics.partition("t", 0).unwrap().is_open(producer)
    };
    for (index, commits) in [(0, true), (1, false)] {
        broker.end_transaction(open[index].0, open[index].1, commits).await.unwrap();
        assert!(!is_open(index), "{} has not got its marker", open[index].0);
    }
    assert_eq!(produce(&broker).await, ResponseError::KafkaStorageError.code(), "records have no room");

    // Not a byte is left: it is decided when there is room again.
    let used = disk.files().iter().map(|(_, size)| size).sum();
    disk.plan(Plan { capacity: used, ..Plan::default() });
    assert!(broker.end_transaction(open[2].0, open[2].1, true).await.is_err());
    assert!(is_open(2));
    disk.plan(Plan { capacity: 2 * DISK, ..Plan::default() });
    broker.end_transaction(open[2].0, open[2].1, true).await.unwrap();
    assert!(!is_open(2));
    assert_eq!(produce(&broker).await, 0);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_to_producers_harms_nothing_and_is_got_over() {
    let (disk, dir) = (FaultyFs::new(7), tempfile::tempdir().unwrap());
    disk.plan(Plan { capacity: DISK, ..Plan::default() });
    let broker = start(&disk, dir.path()).await;
    for name in ["t", "other"] {
        broker.topics.create(name, 1, BTreeMap::new()).await.unwrap();
    }
    let refusal = ResponseError::KafkaStorageError.code();
    let acknowledged = fill(&broker).await;
    assert!(acknowledged > 1_000, "{acknowledged}");
    assert_eq!(produce(&broker).await, refusal);
    assert_eq!(stored(&broker), acknowledged);

    // What is not a record still has room: groups go on, and somebody can make room.
    let committed = Committed { offset: 3, leader_epoch: -1, metadata: String::new(), at_ms: now(), expires_ms: None };
    let outsider = Speaker { member: "", instance: None, generation: -1 };
    let moves = [Move { topic: "t", partition: 0, committed }];
    let reached = broker.groups.commit("g", outsider, None, &moves, Now::new()).unwrap();
    broker.groups.settled(reached).await.unwrap();
    broker.topics.create("third", 1, BTreeMap::new()).await.unwrap();
    broker.topics.delete("other").await.unwrap();

    // A restart in the middle of it finds the same.
    broker.stop().await.unwrap();
    drop(broker);
    let broker = start(&disk, dir.path()).await;
    assert_eq!(produce(&broker).await, refusal);
    assert_eq!(stored(&broker), acknowledged);

    // MemoryLimit again: by itself it goes on.
    disk.plan(Plan { capacity: 2 * DISK, ..Plan::default() });
    let more = fill(&broker).await;
    assert!(more > 1_000, "{more}");
    assert_eq!(stored(&broker), acknowledged + more);
    // Or somebody deletes what he can do without.
    broker.topics.delete("t").await.unwrap();
    broker.topics.create("t", 1, BTreeMap::new()).await.unwrap();
    assert_eq!(produce(&broker).await, 0);
    broker.stop().await.unwrap();
}
