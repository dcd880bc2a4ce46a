//! How old a sample is when a consumer has it.

use millrace_tests::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Quantiles of `now - time` in milliseconds.
pub struct Ages(Vec<f64>);

impl Ages {
    /// Reads what arrives in a JSON topic during `window`, read_committed.
    pub fn of(kafka: &Kafka, topic: &str, partitions: i32, window: Duration) -> Self {
        let mut config = kafka.client();
        config
            .set("group.id", "bench")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer can be made");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::End).expect("the end is an offset");
        }
        consumer.assign(&list).expect("partitions can be assigned");
        // The first fetches find their feet.
        let start = Instant::now() + Duration::from_secs(2);
        let mut ages = Vec::new();
        while Instant::now() < start + window {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
            if Instant::now() < start {
                continue;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as i64;
            if let Some(time) = message.payload().and_then(time_of) {
                ages.push((now - time) as f64 / 1000.0);
            }
        }
        ages.sort_by(f64::total_cmp);
        Self(ages)
    }

    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * q) as usize).copied().unwrap_or(f64::NAN)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// The number after `"time":` of a sample in JSON, microseconds since 1970.
fn time_of(json: &[u8]) -> Option<i64> {
    let name = b"\"time\":";
    let at = json.windows(name.len()).position(|window| window == name)? + name.len();
    let digits = json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&json[at..at + digits]).ok()?.parse().ok()
}
