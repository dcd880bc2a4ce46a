//! InfluxDB 1 of Debian for a test: in a folder of its own, on a free port of 127.0.0.1, as a user who is not root.

use crate::databases::{command, folder, free_port, give_away, log};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Debian's `influxdb`, with a database `plant`, user `millrace`, password `secret`.
pub struct Influx {
    folder: PathBuf,
    port: u16,
    server: Child,
}

impl Drop for Influx {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Influx {
    pub fn start() -> Self {
        // Somebody may have taken the port between.
        let this = (0..5).find_map(|_| Self::try_start()).expect("InfluxDB starts");
        this.run("CREATE USER millrace WITH PASSWORD 'secret' WITH ALL PRIVILEGES");
        this.run("CREATE DATABASE plant");
        this
    }

    fn try_start() -> Option<Self> {
        let (folder, port) = (folder("influx"), free_port());
        let data = folder.display();
        let settings = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n[meta]\ndir = \"{data}/meta\"\n[data]\ndir = \"{data}/data\"\n\
             wal-dir = \"{data}/wal\"\n[monitor]\nstore-enabled = false\n[http]\nbind-address = \"127.0.0.1:{port}\"\nauth-enabled = true\n\
             log-enabled = false\n"
        );
        let file = folder.join("influxdb.conf");
        std::fs::write(&file, settings).expect("a file can be written");
        give_away(&file);
        let program = if Path::new("/usr/bin/influxd").exists() { "/usr/bin/influxd" } else { "influxd" };
        let mut server = command(Path::new(program), &folder);
        server.args(["run", "-config"]).arg(&file).stdout(log(&folder)).stderr(log(&folder));
        let server = server.spawn().unwrap_or_else(|error| {
            panic!("influxd: {error}; type: sudo apt-get install -y --no-install-recommends influxdb");
        });
        let mut this = Self { folder, port, server };
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(error) = this.exchange("GET /ping HTTP/1.0\r\n\r\n") {
            if this.server.try_wait().is_ok_and(|ended| ended.is_some()) {
                return None;
            }
            assert!(Instant::now() < deadline, "InfluxDB does not answer: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(this)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement of InfluxQL in `plant`; returns its JSON.
    pub fn run(&self, statement: &str) -> String {
        self.post(&format!("/query?db=plant&epoch=u&u=millrace&p=secret&q={}", encoded(statement)), "")
    }

    /// Writes lines to `plant`, as another program would.
    pub fn write(&self, lines: &str) -> String {
        self.post("/write?db=plant&u=millrace&p=secret", lines)
    }

    fn post(&self, path: &str, body: &str) -> String {
        let request = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = self.exchange(&request).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.contains(" 20") && !body.contains("\"error\""), "{path}: {answer}");
        body.trim().to_owned()
    }

    /// Of HTTP 1.0: the answer ends with the connection.
    fn exchange(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
