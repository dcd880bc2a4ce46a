//! Apache Kafka Connect, one distributed worker, from Maven's jars: what Millrace's own interface is compared with.

use crate::wait::within;
use crate::{Kafka, Process, free_port, http, peers, scratch};
use std::time::Duration;

pub struct Connect {
    _process: Process,
    _dir: tempfile::TempDir,
    pub port: u16,
}

impl Connect {
    /// Starts a worker, and waits until it answers.
    pub fn on(kafka: &Kafka) -> Self {
        let (dir, port) = (scratch("connect"), free_port());
        let group = kafka.topic("connect");
        let storage = |what: &str| format!("{what}.storage.topic={group}-{what}\n{what}.storage.replication.factor=1\n");
        let properties = format!(
            "bootstrap.servers={}\ngroup.id={group}\nlisteners=http://127.0.0.1:{port}\nplugin.discovery=service_load\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\nvalue.converter=org.apache.kafka.connect.storage.StringConverter\n{}{}{}",
            kafka.brokers(),
            storage("config"),
            storage("offset"),
            storage("status"),
        );
        std::fs::write(dir.path().join("connect.properties"), properties).expect("a file can be written");
        let mut java = peers::debian("java", "default-jre-headless");
        java.args(["-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(peers::connect_libs().join("*"));
        java.arg("org.apache.kafka.connect.cli.ConnectDistributed").arg(dir.path().join("connect.properties"));
        let mut process = Process::start("Kafka Connect", java, &dir.path().join("connect.log"));
        within(Duration::from_secs(300), "Kafka Connect answers", || {
            assert!(process.is_running(), "Kafka Connect ended at its start\n{}", process.output());
            matches!(http::get(port, "/connectors"), Ok((200, _))).then_some(())
        });
        Self { _process: process, _dir: dir, port }
    }
}
