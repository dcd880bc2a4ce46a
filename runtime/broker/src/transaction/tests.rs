//! Transactions on a disk that loses what was not synced.

use std::collections::BTreeSet;
use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use millrace_log::faulty::FaultyFs;
use millrace_log::{KeepFree, ReadBuf};

use crate::broker::Broker;
use crate::clock::now;
use crate::group::groups::{Move, Now};
use crate::group::membership::Speaker;
use crate::group::stored::Committed;
use crate::start::Options;
use crate::storage::batch::{Header, sample};
use crate::transaction::state::Identity;
use kafka_protocol::ResponseError;
use std::collections::BTreeMap;

const TOPICS: [&str; 2] = ["bent", "painted"];
const OUTSIDER: Speaker<'static> = Speaker { member: "", instance: None, generation: -1 };

async fn start(disk: &FaultyFs, dir: &tempfile::TempDir) -> std::sync::Arc<Broker> {
    let options = Options {
        dir: dir.path().to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: KeepFree::Bytes(0),
        security: None,
    };
    Broker::start_on(std::sync::Arc::new(disk.clone()), options).await.unwrap()
}

/// What a producer knows of its transactions, by their numbers.
#[derive(Default)]
struct Told {
    committed: BTreeSet<i32>,
    aborted: BTreeSet<i32>,
}

/// One record into each topic and one committed offset, which all carry the transaction's number.
async fn write(broker: &Broker, who: Identity, number: i32) -> Result<(), ResponseError> {
    let partitions = TOPICS.map(|topic| (topic.to_owned(), 0));
    broker.transactions.add_partitions("id", who, &partitions).await?;
    broker.transactions.add_group("id", who, "g").await?;
    for (topic, index) in partitions {
        let batch = sample(1, (who.producer_id, who.epoch, number), true);
        let partition = broker.topics.partition(&topic, index)?;
        let config = broker.topics.get(&topic).unwrap().config();
        let may_begin = || broker.transactions.may_write("id", who, &topic, index);
        partition.append(&Header::check(&batch).expect("a sample is whole"), &batch, &config, now(), may_begin)?;
    }
    let committed = Committed { offset: number.into(), leader_epoch: -1, metadata: String::new(), at_ms: now(), expires_ms: None };
    broker.transactions.may_commit_offsets("id", who, "g")?;
    broker.groups.commit("g", OUTSIDER, Some(who.producer_id), &[Move { topic: TOPICS[0], partition: 0, committed }], Now::new())?;
    Ok(())
}

async fn work(broker: &Broker, disk: &FaultyFs, told: &mut Told) {
    for topic in TOPICS {
        broker.topics.create(topic, 1, BTreeMap::new()).await.unwrap();
    }
    let who = broker.init_producer("id", 60_000, None).await.unwrap();
    for number in 0..5 {
        write(broker, who, number).await.unwrap();
        let commits = disk.below(4) > 0;
        if !commits {
            told.aborted.insert(number);
        }
        broker.end_transaction("id", who, commits).await.unwrap();
        if commits {
            told.committed.insert(number);
        }
    }
}

/// Goes on with `work` until it has been woken `most` times.
async fn for_some_wakes(work: impl Future<Output = ()>, most: u64) {
    let mut work = std::pin::pin!(work);
    let mut left = most;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        work.as_mut().poll(context)
    })
    .await;
}

/// Numbers of the transactions that a read_committed consumer sees in a topic.
fn visible(broker: &Broker, topic: &str) -> BTreeSet<i32> {
    let Ok(partition) = broker.topics.partition(topic, 0) else { return BTreeSet::new() };
    assert_eq!(partition.stable(), partition.end(), "a transaction is still open in {topic}");
    let (mut buf, mut from, mut numbers) = (ReadBuf::new(), 0, BTreeSet::new());
    while partition.read_batches(from, 1 << 20, &mut buf).unwrap() > 0 {
        for batch in buf.batches() {
            let header = Header::read(batch.payload).unwrap();
            if !header.is_control() && !partition.was_aborted(header.producer_id, batch.first) {
                assert!(numbers.insert(header.first_sequence), "transaction {} is twice in {topic}", header.first_sequence);
            }
            from = batch.next;
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_all_of_a_transaction_or_nothing_and_nothing_of_a_committed_one() {
    for seed in 0..80 {
        let (disk, dir) = (FaultyFs::new(seed * 7_919 + 1), tempfile::tempdir().unwrap());
        let broker = start(&disk, &dir).await;
        let mut told = Told::default();
        for_some_wakes(work(&broker, &disk, &mut told), disk.below(40)).await;
        let after = disk.after_power_cut();
        let _ = broker.stop().await;
        drop(broker);

        let broker = start(&after, &dir).await;
        broker.tend_transactions().await;
        let [bent, painted] = TOPICS.map(|topic| visible(&broker, topic));
        assert_eq!(bent, painted, "seed {seed}: a transaction is there in part");
        assert!(bent.is_superset(&told.committed), "seed {seed}: {:?} were committed, {bent:?} are there", told.committed);
        assert!(bent.is_disjoint(&told.aborted), "seed {seed}: {:?} were aborted, {bent:?} are there", told.aborted);
        let offset = broker.groups.look("g", |_, offsets| offsets.get(TOPICS[0], 0).map(|committed| committed.offset)).flatten();
        assert_eq!(offset, bent.last().map(|last| i64::from(*last)), "seed {seed}: the offset of another transaction");
        let _ = broker.stop().await;
    }
}
