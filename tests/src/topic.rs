//! Topics of Kafka, read and written by a client of the tests' own.

use crate::kafka::Kafka;
use crate::wait::{PATIENCE, late};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// One record of a topic, its bytes as they lie in Kafka.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    /// The value as JSON; a registry's five bytes in front are skipped.
    pub fn json(&self) -> serde_json::Value {
        let value = self.value.as_deref().unwrap_or_else(|| panic!("the record at {} is a tombstone", self.offset));
        let body = if value.first() == Some(&0) && value.len() > 5 { &value[5..] } else { value };
        serde_json::from_slice(body).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
    }

    /// The identity `(source, seq)`: from the sample itself, else from the headers of a document.
    pub fn identity(&self) -> (String, i64) {
        if let (Some(source), Some(seq)) = (self.header("millrace.source"), self.header("millrace.seq")) {
            return (source, seq.parse().unwrap_or_else(|_| panic!("millrace.seq is not a number: {seq}")));
        }
        let json = self.json();
        let source = json["source"].as_str().unwrap_or_else(|| panic!("a record without identity: {json}"));
        let seq = json["seq"].as_i64().unwrap_or_else(|| panic!("a sample without seq: {json}"));
        (source.to_owned(), seq)
    }
}

/// A tag's path without the site, which every test has of its own: `fleet/7/speed`.
pub fn below_site(path: &str) -> &str {
    path.splitn(3, '/').nth(2).unwrap_or_default()
}

/// A reader of one topic from its beginning.
pub struct Follow {
    consumer: BaseConsumer,
    topic: String,
    records: Vec<Record>,
    ended: BTreeSet<i32>,
    partitions: usize,
}

impl Kafka {
    /// Reads a topic from its beginning, aborted transactions hidden (read_committed).
    pub fn follow(&self, topic: &str) -> Follow {
        Follow::new(self, topic, "read_committed")
    }

    /// Reads a topic from its beginning with everything in it (read_uncommitted).
    pub fn follow_uncommitted(&self, topic: &str) -> Follow {
        Follow::new(self, topic, "read_uncommitted")
    }

    /// All committed records of a topic as of now.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        self.settle(topic);
        self.follow(topic).to_end()
    }

    /// Waits until no transaction is open in the topic: Kafka answers a commit before it has marked it in every partition. One that nobody ends
    /// is aborted by the broker after its timeout.
    fn settle(&self, topic: &str) {
        let consumer = |isolation: &str| -> BaseConsumer {
            self.client().set("group.id", "tests").set("isolation.level", isolation).create().expect("a consumer can be made")
        };
        let (stable, all) = (consumer("read_committed"), consumer("read_uncommitted"));
        let until = Instant::now() + PATIENCE;
        let wait = Duration::from_secs(10);
        while Instant::now() < until {
            let Ok(metadata) = all.fetch_metadata(Some(topic), wait) else { continue };
            let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
            let is_stable = |partition: usize| {
                let end = |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition as i32, wait).ok().map(|(_, end)| end);
                end(&all).is_some_and(|high| end(&stable).is_some_and(|stable| stable >= high))
            };
            if (0..partitions).all(is_stable) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Produces records with keys and waits until the broker has them all.
    pub fn produce<'a>(&self, topic: &str, records: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        self.produce_with_headers(topic, records.into_iter().map(|(key, value)| (key, Some(value), &[][..])));
    }

    /// Produces records with keys and headers; a value of `None` is a tombstone.
    pub fn produce_with_headers<'a>(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>, &'a [(&'a str, &'a str)])>,
    ) {
        // What is sent again, to a leader that is new, keeps its order and comes once.
        let config = self.client().set("linger.ms", "5").set("enable.idempotence", "true").clone();
        let producer: BaseProducer = config.create().expect("a producer can be made");
        for (key, value, headers) in records {
            let mut all = OwnedHeaders::new();
            for (key, value) in headers {
                all = all.insert(Header { key, value: Some(*value) });
            }
            loop {
                let mut record = BaseRecord::to(topic).key(key);
                if let Some(value) = value {
                    record = record.payload(value);
                }
                if !headers.is_empty() {
                    record = record.headers(all.clone());
                }
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                        producer.poll(Duration::from_millis(50));
                    }
                    Err((error, _)) => panic!("cannot produce to {topic}: {error}"),
                }
            }
        }
        producer.flush(PATIENCE).expect("the broker takes the records");
    }

    /// The offset a consumer group committed for a partition, if any.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().expect("a consumer can be made");
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = consumer.committed_offsets(list, Duration::from_secs(20)).expect("the broker answers");
        match committed.find_partition(topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

impl Follow {
    fn new(kafka: &Kafka, topic: &str, isolation: &str) -> Self {
        let mut config = kafka.client();
        config
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .set("isolation.level", isolation);
        let consumer = config.create().expect("a consumer can be made");
        Self { consumer, topic: topic.into(), records: Vec::new(), ended: BTreeSet::new(), partitions: 0 }
    }

    /// Begins to read, once the topic exists.
    fn assigned(&mut self) -> bool {
        if self.partitions > 0 {
            return true;
        }
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(5)) else { return false };
        let partitions = metadata.topics().first().map_or(0, |topic| if topic.error().is_some() { 0 } else { topic.partitions().len() });
        if partitions == 0 {
            std::thread::sleep(Duration::from_millis(50));
            return false;
        }
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition as i32, Offset::Beginning).expect("an offset of zero is valid");
        }
        self.consumer.assign(&list).expect("partitions can be assigned");
        self.partitions = partitions;
        true
    }

    /// Takes in what there is, waiting up to `wait` for the first record; says whether anything happened.
    fn poll(&mut self, wait: Duration) -> bool {
        if !self.assigned() {
            return false;
        }
        match self.consumer.poll(wait) {
            None => false,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.ended.insert(partition);
                true
            }
            // The broker is away, or restarts: the caller's deadline decides.
            Some(Err(_)) => false,
            Some(Ok(message)) => {
                let headers = message.headers().map_or(Vec::new(), |headers| {
                    headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
                });
                let record = Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                };
                self.ended.remove(&record.partition);
                self.records.push(record);
                true
            }
        }
    }

    /// What has been read so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads on until `done` says so; panics with `what` and the last record after a generous deadline without an end.
    pub fn until(&mut self, what: &str, done: impl FnMut(&[Record]) -> bool) -> &[Record] {
        self.until_within(PATIENCE, what, done)
    }

    /// As [`Follow::until`]; the deadline counts from the last record read.
    pub fn until_within(&mut self, patience: Duration, what: &str, mut done: impl FnMut(&[Record]) -> bool) -> &[Record] {
        let mut end = Instant::now() + patience;
        loop {
            if done(&self.records) {
                return &self.records;
            }
            let before = self.records.len();
            // Many at a time: `done` may look at all of them.
            if self.poll(Duration::from_millis(100)) {
                while self.records.len() < before + 5_000 && self.poll(Duration::ZERO) {}
            }
            if self.records.len() > before {
                end = Instant::now() + patience;
            }
            assert!(
                Instant::now() < end,
                "{}: topic {} has {} records; the last one: {:?}",
                late(what, patience),
                self.topic,
                self.records.len(),
                self.records.last().map(Record::text)
            );
        }
    }

    /// Reads until there are `count` records.
    pub fn count(&mut self, count: usize) -> &[Record] {
        self.until(&format!("{count} records"), |records| records.len() >= count)
    }

    /// Reads to the end of every partition as of now.
    pub fn to_end(mut self) -> Vec<Record> {
        self.ended.clear();
        let mut end = Instant::now() + PATIENCE;
        while self.partitions == 0 || self.ended.len() < self.partitions {
            if self.poll(Duration::from_millis(200)) {
                end = Instant::now() + PATIENCE;
            }
            assert!(Instant::now() < end, "{}", late(&format!("the end of topic {}", self.topic), PATIENCE));
        }
        self.records
    }
}
