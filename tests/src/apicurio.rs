//! A foreign schema registry: Apicurio, in its Confluent-compatible interface, in memory.

use crate::{Process, eventually, free_port, http, scratch};

/// Where its Confluent-compatible interface lies.
pub const PATH: &str = "/apis/ccompat/v7";

pub struct Apicurio {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Apicurio {
    /// Starts one and waits until it answers. It asks for no compatibility before it is told to.
    pub fn start() -> Self {
        let (dir, port) = (scratch("apicurio"), free_port());
        let folder = crate::peers::apicurio();
        let jar = std::fs::read_dir(folder).expect("the cache can be read").filter_map(|entry| Some(entry.ok()?.path()));
        let jar = jar.into_iter().find(|path| path.to_string_lossy().ends_with("-runner.jar")).expect("Apicurio has a runner jar");
        let mut java = crate::peers::debian("java", "default-jre-headless");
        java.args(["-Xmx400m", "-XX:+UseSerialGC", "-Dquarkus.http.host=127.0.0.1", "-Dquarkus.http.access-log.enabled=false"]);
        java.arg(format!("-Dquarkus.http.port={port}")).arg("-jar").arg(jar).current_dir(folder);
        let process = Process::start("Apicurio", java, &dir.path().join("apicurio.log"));
        let mut registry = Self { process, port, _dir: dir };
        eventually("Apicurio answers", || {
            assert!(registry.process.is_running(), "Apicurio ended at its start\n{}", registry.process.output());
            matches!(http::get(port, &format!("{PATH}/subjects")), Ok((200, _))).then_some(())
        });
        registry
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that clients of Confluent's registry take.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// What it answers to a question below [`PATH`].
    pub fn get(&self, path: &str) -> serde_json::Value {
        let (status, answer) = http::get(self.port, &format!("{PATH}{path}")).expect("a registry answers");
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {answer}: {error}"))
    }
}
