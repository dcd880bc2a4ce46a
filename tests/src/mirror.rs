//! MirrorMaker 2 from Maven's jars, one way between two clusters: what replication runs beside, and is measured beside.

use crate::{Kafka, Process, peers, scratch};

pub struct MirrorMaker {
    process: Process,
    _dir: tempfile::TempDir,
}

impl MirrorMaker {
    /// Copies topics (a regular expression) from one cluster to another, each with what the other calls it; `more`: further properties.
    pub fn start(from: (&str, &Kafka), to: (&str, &Kafka), topics: &str, more: &str) -> Self {
        let dir = scratch("mirror");
        let ((from, here), (to, there)) = (from, to);
        let factors: String = [
            "replication.factor",
            "checkpoints.topic.replication.factor",
            "heartbeats.topic.replication.factor",
            "offset-syncs.topic.replication.factor",
            "offset.storage.replication.factor",
            "status.storage.replication.factor",
            "config.storage.replication.factor",
        ]
        .map(|name| format!("{name}=1\n"))
        .concat();
        let properties = format!(
            "clusters={from},{to}\n{from}.bootstrap.servers={}\n{to}.bootstrap.servers={}\n{from}->{to}.enabled=true\n{from}->{to}.topics={topics}\n\
             {to}->{from}.enabled=false\n{factors}{more}",
            here.brokers(),
            there.brokers()
        );
        std::fs::write(dir.path().join("mirror.properties"), properties).expect("a file can be written");
        std::fs::write(dir.path().join("log4j2.properties"), "rootLogger.level = WARN\n").expect("a file can be written");
        let mut java = peers::debian("java", "default-jre-headless");
        java.args(["-Xms256m", "-Xmx2g", "-XX:+UseG1GC"])
            .arg(format!("-Dlog4j2.configurationFile={}", dir.path().join("log4j2.properties").display()));
        java.arg("-cp")
            .arg(peers::mirror())
            .args(["org.apache.kafka.connect.mirror.MirrorMaker"])
            .arg(dir.path().join("mirror.properties"));
        let process = Process::start("MirrorMaker 2", java, &dir.path().join("mirror.log"));
        Self { process, _dir: dir }
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Where a group of the cluster called `alias` goes on at `at`, as MirrorMaker 2's client reads it: topic, partition, offset.
pub fn checkpoints(at: &Kafka, alias: &str, group: &str) -> Vec<(String, i32, i64)> {
    let mut java = peers::debian("java", "default-jre-headless");
    java.args(["-Xmx200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(peers::mirror());
    let output = java.arg("Checkpoints").args([&at.brokers(), alias, group]).output().expect("java starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let mut words = line.split(' ');
        let topic = words.next()?.to_owned();
        Some((topic, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    said.lines().filter_map(line).collect()
}
