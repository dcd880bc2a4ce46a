//! The harness of the end-to-end tests: real peers, started for a test and gone with it.
//!
//! - [`peers`]: where Kafka, the Sparkplug edge nodes and Debian's tools come from, pinned, in a cache.
//! - [`process`]: a child that can be killed, frozen and restarted, and that never outlives the tests.
//! - [`kafka`]: an Apache Kafka broker; [`topic`] reads and writes its topics.
//! - [`embedded`]: the embedded broker, alone; [`clients`]: foreign programs that tell what they see of either.
//! - [`mosquitto`]: an MQTT broker; [`mqtt`] is a client of the tests' own for load and for order.
//! - [`millrace`]: the runtime under test, from a YAML text.
//! - [`apicurio`]: a foreign schema registry. [`decoders`]: foreign clients of one.
//! - [`sparkplug`]: edge nodes from two foreign ecosystems. [`plant`]: OPC UA servers from three. [`script`]: how such peers take orders.
//! - [`disk`]: a disk that is soon full.
//! - [`cable`]: a cable between the runtime and a peer, to be cut, slowed, left half open.
//! - [`stub`]: a receiver that acknowledges and discards, for benchmarks.
//! - [`tls`]: a certificate authority per test.
//!
//! ```no_run
//! use millrace_tests::*;
//! let kafka = Kafka::shared();
//! let broker = Mosquitto::start();
//! let topic = kafka.topic("states");
//! let mut millrace = Factory::on(kafka)
//!     .with("broker", broker.url())
//!     .with("topic", &topic)
//!     .start("sources:\n  cells: {type: mqtt, endpoint: $broker, subscribe: [{filter: 'f/#', payload: json, topic: $topic}]}\n");
//! millrace.wait_running("cells");
//! broker.publish("f/1", br#"{"state": 1}"#, 1, false);
//! kafka.follow(&topic).until("the state", |records| records.len() == 1);
//! millrace.stop();
//! ```
//!
//! Everything is blocking: a test reads from top to bottom. Waiting is for an event with a generous deadline ([`eventually`]), never for a time.
//! Ports are free ones on 127.0.0.1; data lies in a temporary folder per peer; logs are shown when a test fails.

pub mod apicurio;
pub mod cable;
pub mod clients;
pub mod decoders;
pub mod disk;
pub mod embedded;
pub mod http;
pub mod kafka;
pub mod millrace;
pub mod mosquitto;
pub mod mqtt;
pub mod peers;
pub mod plant;
pub mod process;
pub mod registry;
pub mod script;
pub mod sparkplug;
pub mod stub;
pub mod tls;
pub mod topic;
pub mod wait;

pub use apicurio::Apicurio;
pub use cable::Cable;
pub use clients::{Program, Side};
pub use decoders::Decoder;
pub use disk::SmallDisk;
pub use embedded::Embedded;
pub use kafka::{Kafka, KafkaOptions};
pub use millrace::{Factory, Ledger, Millrace};
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use mqtt::{Client, Message};
pub use plant::{Plant, Stack};
pub use process::Process;
pub use registry::Registry;
pub use script::Script;
pub use sparkplug::EdgeNode;
pub use tls::Authority;
pub use topic::{Follow, Record, below_site};
pub use wait::{eventually, free_port, scratch};
