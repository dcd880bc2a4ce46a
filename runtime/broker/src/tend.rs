//! What is done by the clock: transactions that time out, retention, compaction, checkpoints.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::broker::Broker;

const TICK: Duration = Duration::from_secs(1);

pub async fn run(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopped() => return,
        }
        broker.tend_transactions().await;
        for (_, partition) in broker.topics.opened() {
            if let Err(e) = partition.save_if_due() {
                tracing::warn!(topic = %partition.topic, partition = partition.index, "cannot save the partition's state: {e}");
            }
        }
    }
}
