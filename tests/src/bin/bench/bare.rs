//! The yardstick: rdkafka's own producer sending recorded bytes with the runtime's settings.
//!
//! `bare BROKERS TOPIC FILE RATE COUNT`: sends the records of FILE again and again, RATE a second (0: as fast as they go), COUNT in all (0: until
//! killed), and prints the seconds it took.

use millrace_tests::Record;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `runtime/kafka` gives its producers.
const SETTINGS: [(&str, &str); 9] = [
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("batch.num.messages", "10000"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.kbytes", "32768"),
    ("queue.buffering.max.messages", "100000"),
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", "murmur2_random"),
];

/// Writes records for [`main`]: per record key, value and headers, each with its length.
pub fn save(records: &[Record], file: &Path) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("a file can be made"));
    let mut piece = |bytes: &[u8]| {
        out.write_all(&(bytes.len() as u32).to_le_bytes()).and_then(|()| out.write_all(bytes)).expect("a file can be written");
    };
    for record in records {
        piece(record.key.as_deref().unwrap_or_default());
        piece(record.value.as_deref().unwrap_or_default());
        piece(&[record.headers.len() as u8]);
        for (name, value) in &record.headers {
            piece(name.as_bytes());
            piece(value.as_deref().unwrap_or_default());
        }
    }
}

struct Recorded {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

fn load(file: &str) -> Vec<Recorded> {
    let bytes = std::fs::read(file).expect("the recorded bytes can be read");
    let mut at = 0;
    let mut piece = || {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        at += 4 + len;
        (bytes[at - len..at].to_vec(), at < bytes.len())
    };
    let mut records = Vec::new();
    loop {
        let (key, _) = piece();
        let (value, _) = piece();
        let (count, mut more) = piece();
        let mut headers = Vec::new();
        for _ in 0..count[0] {
            let (name, _) = piece();
            let (value, after) = piece();
            more = after;
            headers.push((String::from_utf8(name).expect("names are UTF-8"), value));
        }
        records.push(Recorded { key, value, headers });
        if !more {
            return records;
        }
    }
}

pub fn main(args: &[String]) {
    let [brokers, topic, file, rate, count] = args else { panic!("bare BROKERS TOPIC FILE RATE COUNT") };
    let (rate, count): (f64, u64) = (rate.parse().expect("a rate"), count.parse().expect("a count"));
    let records = load(file);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("log_level", "3");
    for (name, value) in SETTINGS {
        config.set(name, value);
    }
    let producer: BaseProducer = config.create().expect("a producer can be made");
    let began = Instant::now();
    let mut sent = 0u64;
    while count == 0 || sent < count {
        if rate > 0.0 {
            // Paced as a source is: what is due, a few milliseconds' worth at a time.
            let due = (began.elapsed().as_secs_f64() * rate) as u64;
            if sent >= due {
                std::thread::sleep(Duration::from_millis(5));
                producer.poll(Duration::ZERO);
                continue;
            }
        }
        let record = &records[(sent % records.len() as u64) as usize];
        let mut headers = OwnedHeaders::new();
        for (name, value) in &record.headers {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let mut message = BaseRecord::to(topic).key(&record.key).payload(&record.value);
        if !record.headers.is_empty() {
            message = message.headers(headers);
        }
        match producer.send(message) {
            Ok(()) => sent += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("the bare producer cannot send: {error}"),
        }
        if sent.is_multiple_of(256) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120)).expect("the receiver takes everything");
    println!("{}", began.elapsed().as_secs_f64());
}
