//! The harness of the end-to-end tests: real peers, started for a test and gone with it.
//!
//! - [`peers`]: where Kafka, the Sparkplug edge nodes and Debian's tools come from, pinned, in a cache.
//! - [`process`]: a child that can be killed, frozen and restarted, and that never outlives the tests.
//! - [`kafka`]: an Apache Kafka broker; [`topic`] reads and writes its topics.
//! - [`embedded`]: the embedded broker, alone; [`clients`]: foreign programs that tell what they see of either.
//! - [`connect`]: Apache Kafka Connect, whose interface ours is compared with.
//! - [`mosquitto`]: an MQTT broker; [`mqtt`] is a client of the tests' own for load and for order.
//! - [`millrace`]: the runtime under test, from a YAML text.
//! - [`apicurio`]: a foreign schema registry. [`decoders`]: foreign clients of one.
//! - [`sparkplug`]: edge nodes from two foreign ecosystems. [`plant`]: OPC UA servers from three. [`script`]: how such peers take orders.
//! - [`cap`]: an ERP by SAP's own framework; [`front`]: a gateway in front of a server that fails in every way gateways do.
//! - [`questdb`]: a database that is written to by the line protocol.
//! - [`browser`]: Chromium, which looks at the console.
//! - [`disk`]: a disk that is soon full. [`hostile`]: clients that mean harm.
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
pub mod binary;
pub mod browser;
pub mod cable;
pub mod cap;
pub mod clients;
pub mod clock;
pub mod connect;
pub mod decoders;
pub mod disk;
pub mod embedded;
pub mod front;
pub mod hostile;
pub mod http;
pub mod kafka;
pub mod libmodbus;
pub mod millrace;
pub mod mirror;
pub mod modbus;
pub mod mosquitto;
pub mod mqtt;
pub mod peers;
pub mod plant;
pub mod process;
pub mod questdb;
pub mod registry;
pub mod script;
pub mod snap7;
pub mod sparkplug;
pub mod stub;
pub mod tls;
pub mod topic;
pub mod wait;

pub use apicurio::Apicurio;
pub use browser::Browser;
pub use cable::Cable;
pub use cap::Cap;
pub use clients::{Program, Side};
pub use clock::Clock;
pub use decoders::Decoder;
pub use disk::SmallDisk;
pub use embedded::Embedded;
pub use front::{Fault, Front};
pub use kafka::{Kafka, KafkaOptions};
pub use libmodbus::Libmodbus;
pub use millrace::{Factory, Ledger, Millrace};
pub use mirror::MirrorMaker;
pub use modbus::Pymodbus;
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use mqtt::{Client, Message};
pub use plant::{Plant, Stack};
pub use process::Process;
pub use questdb::QuestDb;
pub use registry::Registry;
pub use script::Script;
pub use snap7::Snap7;
pub use sparkplug::EdgeNode;
pub use tls::Authority;
pub use topic::{Follow, Record, below_site};
pub use wait::{eventually, free_port, scratch, within};
