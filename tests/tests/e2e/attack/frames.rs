//! Frames that no client would send, and clients that send nothing, for every listener of a runtime.

use super::{Campaign, idle_kib, is_unharmed};
use crate::load::*;
use millrace_tests::hostile::{self, Listener};
use millrace_tests::*;
use std::io::Write;
use std::net::TcpStream;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

const COUNT: u64 = 20_000;
/// Clients that attack at the same time, and those that only hold a connection.
const CLIENTS: u64 = 8;
const SLOW: usize = 150;

#[test]
fn no_frame_stops_a_listener_or_takes_more_memory_than_there_is_for_all() {
    let (kafka, registry) = (Kafka::inside(free_port()), free_port());
    let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", registry);
    let (factory, topic) = counters(factory, &kafka, COUNT, "1000/s");
    let mut millrace = factory.start(&format!(
        "kafka: {{brokers: embedded, embedded: {{listen: \"$listen\"}}}}\n\
         schemas: {{registry: embedded, listen: \"127.0.0.1:$registry\"}}\n{COUNTERS}"
    ));
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 500);
    let broker: u16 = kafka.brokers().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address has a port");
    let schema = r#"{"schema": "{\"type\": \"record\", \"name\": \"r\", \"fields\": [{\"name\": \"f\", \"type\": \"string\"}]}"}"#;
    let listeners = [
        Listener { port: broker, frames: hostile::kafka_frames(&topic) },
        Listener {
            port: registry,
            frames: hostile::http_frames(&[
                ("GET", "/subjects", ""),
                ("POST", "/subjects/attack-value/versions", schema),
                ("POST", "/compatibility/subjects/attack-value/versions/latest", schema),
                ("PUT", "/config/attack-value", r#"{"compatibility": "NONE"}"#),
                ("GET", "/schemas/ids/1", ""),
            ]),
        },
        Listener {
            port: millrace.http_port(),
            frames: hostile::http_frames(&[
                ("GET", "/status", ""),
                ("GET", "/tags?name=*", ""),
                ("GET", "/why?tag=load", ""),
                ("GET", "/lost", ""),
            ]),
        },
    ];
    let idle = idle_kib(&mut millrace);
    let campaign = Campaign::begin("mutated frames");
    let (seed, end) = (campaign.seed, campaign.end);
    let goes_on = move || Instant::now() < end;
    let sent: Vec<u64> = std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let connect = |listener: &Listener| {
                let mut stream = TcpStream::connect(("127.0.0.1", listener.port)).ok()?;
                // The first half of a request, and then nothing.
                stream.write_all(&listener.frames[0][..listener.frames[0].len() / 2]).ok()?;
                Some(stream)
            };
            let held: Vec<_> = listeners.iter().flat_map(|listener| (0..SLOW).map(move |_| connect(listener))).collect();
            while goes_on() {
                std::thread::sleep(Duration::from_millis(50));
            }
            held.iter().flatten().count()
        });
        let mut clients = Vec::new();
        for (listener, first) in listeners.iter().zip([0, 100, 200]) {
            let spawn = |n| scope.spawn(move || hostile::attack(listener, seed + first + n, goes_on));
            clients.push((0..CLIENTS).map(spawn).collect::<Vec<_>>());
        }
        let sent = |client: ScopedJoinHandle<'_, u64>| client.join().expect("it never panics");
        let sent = clients.into_iter().map(|clients| clients.into_iter().map(sent).sum()).collect();
        println!("{} clients held half a request each", slow.join().expect("they only wait"));
        sent
    });
    println!("frames: broker {}, registry {}, console {}", sent[0], sent[1], sent[2]);
    assert!(sent.iter().all(|sent| *sent > 100), "{sent:?}");
    is_unharmed(&mut millrace, idle);
    finished(&millrace, COUNT);
    // A mutated Produce may be a good one: what is not a counter of ours is theirs.
    let is_json = |record: &Record| serde_json::from_slice::<serde_json::Value>(record.value.as_deref().unwrap_or_default()).is_ok();
    let records: Vec<Record> = kafka.read(&topic).into_iter().filter(is_json).collect();
    every_value_at_least_once(&records, COUNT);
    let subjects = http::get(registry, "/subjects").expect("the registry answers");
    assert_eq!(subjects.0, 200, "{}", subjects.1);
    millrace.stop();
}
