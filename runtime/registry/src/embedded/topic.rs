//! The topic `_schemas`: created where it is missing, read from its beginning and for ever, written record by record.
//!
//! One thread reads. A write is done when the broker has it and the reader has passed its offset, so whoever asks after an acknowledged
//! write finds it.

use millrace_config::Reason;
use millrace_kafka::{
    Admin, Consumer, Deliveries, KafkaError, Outgoing, Polled, Producer, Report, SendError, Settings, TopicPartition, TopicSpec,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The topic, as tools of Confluent's expect it.
pub const TOPIC: &str = "_schemas";
/// How long a request of the topic's own may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to reach Kafka.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the reader looks whether it shall stop.
const POLL: Duration = Duration::from_millis(200);
/// How long its end may take; a Kafka that is away is not waited for.
const END_WITHIN: Duration = Duration::from_secs(2);

type Apply = Box<dyn Fn(&[u8], Option<&[u8]>) + Send + Sync>;

pub(super) struct Topic {
    shared: Arc<Shared>,
    producer: Mutex<Option<Arc<Producer>>>,
    next: AtomicU64,
    /// Resolves when the reader has ended.
    reader: Mutex<Option<oneshot::Receiver<()>>>,
}

struct Shared {
    settings: Settings,
    apply: Apply,
    /// The offset that was applied last, -1 before any.
    applied: watch::Sender<i64>,
    /// Why the topic is not read yet; `None`: it is.
    trouble: Mutex<Option<Reason>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<i64, Reason>>>>,
    /// The registry's word to stop; closed when the registry is gone.
    stopping: watch::Receiver<bool>,
}

impl Topic {
    pub fn new(settings: Settings, stopping: watch::Receiver<bool>, apply: Apply) -> Self {
        let shared = Shared {
            settings,
            apply,
            applied: watch::Sender::new(-1),
            trouble: Mutex::new(Some("the topic is not read yet".into())),
            waiting: Mutex::default(),
            stopping,
        };
        Self { shared: Arc::new(shared), producer: Mutex::default(), next: AtomicU64::new(0), reader: Mutex::default() }
    }

    /// Starts the reader.
    pub fn start(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let (reads, ended) = oneshot::channel();
        std::thread::Builder::new().name("schema-registry".into()).spawn(move || {
            shared.read();
            drop(reads);
        })?;
        *self.reader.lock() = Some(ended);
        Ok(())
    }

    /// Waits until nothing of it speaks with Kafka any more; the registry has said that it stops.
    pub async fn ended(&self) {
        let producer = self.producer.lock().take();
        // Its end waits for a thread.
        let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
        let reader = self.reader.lock().take();
        if let Some(ended) = reader {
            let _ = tokio::time::timeout(END_WITHIN, ended).await;
        }
    }

    pub fn ready(&self) -> Result<(), Reason> {
        self.shared.trouble.lock().clone().map_or(Ok(()), Err)
    }

    /// Writes a record and waits until it is applied.
    pub async fn write(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Reason> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.shared.waiting.lock().insert(number, tell);
        let sent = self.send(number, &key, value.as_deref());
        let outcome = match sent {
            Ok(()) => match tokio::time::timeout(PATIENCE, told).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("the producer ended".into()),
                Err(_) => Err(format!("Kafka does not take a record of {TOPIC} in time").into()),
            },
            Err(why) => Err(why),
        };
        self.shared.waiting.lock().remove(&number);
        let offset = outcome?;
        let mut applied = self.shared.applied.subscribe();
        let passed = tokio::time::timeout(PATIENCE, applied.wait_for(|applied| *applied >= offset)).await;
        match passed {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("what was written to {TOPIC} can't be read back in time").into()),
        }
    }

    fn send(&self, number: u64, key: &[u8], value: Option<&[u8]>) -> Result<(), Reason> {
        let producer = {
            let mut kept = self.producer.lock();
            if self.shared.is_stopping() {
                return Err("the schema registry is stopping".into());
            }
            if kept.as_ref().is_none_or(|producer| producer.fatal().is_some()) {
                let producer = Producer::new(&self.shared.settings, self.shared.clone()).map_err(|error| error.to_string())?;
                *kept = Some(Arc::new(producer));
            }
            kept.clone().ok_or("no producer")?
        };
        let topic = producer.topic(TOPIC).map_err(|error| error.to_string())?;
        let message = Outgoing { partition: Some(0), key: Some(key), value, timestamp_ms: 0, opaque: number };
        producer.send(&topic, &message, std::iter::empty()).map_err(|error| {
            match error {
                SendError::QueueFull => "too many schemas wait for Kafka".to_owned(),
                SendError::Refused(error) | SendError::Doomed(error) => error.to_string(),
            }
            .into()
        })
    }
}

impl Deliveries for Shared {
    fn reports(&self, reports: &[Report]) {
        let mut waiting = self.waiting.lock();
        for report in reports {
            if let Some(tell) = waiting.remove(&report.opaque) {
                // Who asked may have lost patience.
                let _ = tell.send(match &report.error {
                    None => Ok(report.offset),
                    Some(error) => Err(error.to_string().into()),
                });
            }
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        *self.stopping.borrow() || self.stopping.has_changed().is_err()
    }

    /// Reads until it is told to stop; whatever ends a reader, the next one goes on behind what is applied.
    fn read(&self) {
        let mut said = false;
        while !self.is_stopping() {
            if let Err(error) = self.follow() {
                let why = format!("cannot read {TOPIC}: {error}");
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("the schema registry waits for Kafka: {why}");
                }
                if let Some(trouble) = self.trouble.lock().as_mut() {
                    *trouble = why.into();
                }
                std::thread::sleep(PAUSE);
            } else {
                said = false;
            }
        }
    }

    fn follow(&self) -> Result<(), KafkaError> {
        let spec = TopicSpec {
            name: TOPIC.into(),
            partitions: Some(1),
            replication: None,
            configs: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
        };
        for outcome in Admin::new(&self.settings, PATIENCE)?.ensure(&[spec])? {
            match outcome {
                millrace_kafka::TopicOutcome::Created => {}
                millrace_kafka::TopicOutcome::Exists(contradictions) => {
                    for one in contradictions {
                        tracing::warn!("topic {TOPIC}: {one}; a registry's topic must keep every schema, in one partition");
                    }
                }
                millrace_kafka::TopicOutcome::Refused(error) => return Err(error),
            }
        }
        let consumer = Consumer::reader(&self.settings, true)?;
        let part = TopicPartition::new(TOPIC, 0);
        let (first, end) = consumer.watermarks(&part, PATIENCE)?;
        let applied = *self.applied.borrow();
        consumer.take(&[(part, Some((applied + 1).max(first)))])?;
        if end <= applied + 1 {
            self.settled();
        }
        while !self.is_stopping() {
            let polled = consumer.poll(POLL, |message| {
                (self.apply)(message.key().unwrap_or_default(), message.value());
                self.passed(message.offset());
                true
            });
            match polled {
                // Beyond the last record may lie marks of transactions, or what compaction took.
                Polled::End(_, next) => self.passed(next - 1),
                Polled::Failed(error) => return Err(error),
                _ => {}
            }
            if *self.applied.borrow() + 1 >= end {
                self.settled();
            }
        }
        Ok(())
    }

    fn passed(&self, offset: i64) {
        self.applied.send_if_modified(|applied| {
            let moved = offset > *applied;
            *applied = offset.max(*applied);
            moved
        });
    }

    fn settled(&self) {
        if self.trouble.lock().take().is_some() {
            tracing::info!("the schema registry has read {TOPIC} and serves");
        }
    }
}
