//! What is done by the clock: transactions that time out, partitions that grow old, checkpoints.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::StoreError;
use tokio::time::{Interval, MissedTickBehavior};

use crate::broker::Broker;
use crate::clock::now;
use crate::storage::partition::Partition;
use crate::storage::topic_config::TopicConfig;

const TICK: Duration = Duration::from_secs(1);
/// Ticks between two looks for what is too old, and before the first; Kafka: five minutes and thirty seconds.
const RETAIN_EVERY: u64 = 300;
const RETAIN_FIRST: u64 = 30;
/// Partitions opened at a tick that nobody has asked for: what is in them grows old, too.
const OPENED_AT_ONCE: usize = 16;

pub async fn run(broker: Arc<Broker>) {
    // Beside each other: the end of a transaction waits for a full disk, and what is too old makes room there.
    tokio::join!(run_transactions(&broker), run_partitions(&broker));
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn run_transactions(broker: &Broker) {
    let mut ticks = ticks();
    let tend = async {
        loop {
            ticks.tick().await;
            broker.tend_transactions().await;
        }
    };
    tokio::select! {
        () = tend => {}
        () = broker.stopped() => {}
    }
}

async fn run_partitions(broker: &Arc<Broker>) {
    let mut ticks = ticks();
    for tick in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopped() => return,
        }
        let retains = tick % RETAIN_EVERY == RETAIN_FIRST;
        let tended = broker.clone();
        // Compaction reads and writes files: not on a thread that serves.
        if let Err(e) = tokio::task::spawn_blocking(move || tend_partitions(&tended, retains)).await {
            tracing::error!("tending the partitions ended by a fault of the broker: {e}");
        }
    }
}

fn tend_partitions(broker: &Broker, retains: bool) {
    if let Err(e) = broker.topics.copy_if_due() {
        tracing::warn!("cannot write the copy of the topics' journal, tried again in a second: {e}");
    }
    broker.topics.open_some(OPENED_AT_ONCE);
    for (topic, partition) in broker.topics.opened() {
        if let Err(e) = tend_one(&partition, &topic.config(), retains) {
            tracing::warn!(topic = %partition.topic, partition = partition.index, "cannot tend the partition: {e}");
        }
        if broker.is_stopping() {
            return;
        }
    }
}

fn tend_one(partition: &Partition, config: &TopicConfig, retains: bool) -> Result<(), StoreError> {
    let now = now();
    partition.tell_damage();
    partition.roll_if_old(config.segment_age, now);
    if retains {
        partition.retain(config, now)?;
    }
    partition.compact(config, now)?;
    partition.save_if_due()
}
