//! QuestDB, from Maven Central: a server of the line protocol with SQL to ask it.

use crate::{Process, eventually, free_port, http, scratch};

pub struct QuestDb {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl QuestDb {
    /// Starts one with nothing in it, and waits until it answers.
    pub fn start() -> Self {
        let (dir, port) = (scratch("questdb"), free_port());
        let conf = dir.path().join("conf");
        std::fs::create_dir(&conf).expect("a folder can be made");
        let settings = format!(
            "http.bind.to=127.0.0.1:{port}\nhttp.min.enabled=false\npg.enabled=false\nline.tcp.enabled=false\ntelemetry.enabled=false\nshared.worker.count=1\n"
        );
        std::fs::write(conf.join("server.conf"), settings).expect("a file can be written");
        let mut java = crate::peers::debian("java", "default-jre-headless");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "--add-exports", "java.base/jdk.internal.math=ALL-UNNAMED", "-cp"]);
        java.arg(crate::peers::questdb().join("*")).args(["io.questdb.ServerMain", "-d"]).arg(dir.path());
        let process = Process::start("QuestDB", java, &dir.path().join("questdb.log"));
        let mut database = Self { process, port, _dir: dir };
        eventually("QuestDB answers", || {
            assert!(database.process.is_running(), "QuestDB ended at its start\n{}", database.process.output());
            matches!(http::get(port, "/exec?query=SELECT%201"), Ok((200, _))).then_some(())
        });
        database
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement; the rows of its answer.
    ///
    /// Errors: what QuestDB says, as of a table that is not there yet.
    pub fn ask(&self, sql: &str) -> Result<Vec<Vec<serde_json::Value>>, String> {
        let encoded: String = sql
            .bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        let (status, answer) = http::get(self.port, &format!("/exec?query={encoded}")).map_err(|error| error.to_string())?;
        let said: serde_json::Value = serde_json::from_str(&answer).map_err(|error| format!("{status} {answer}: {error}"))?;
        if status != 200 {
            return Err(answer);
        }
        Ok(serde_json::from_value(said["dataset"].clone()).unwrap_or_default())
    }
}
