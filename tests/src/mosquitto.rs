//! An Eclipse Mosquitto broker, Debian's.
//!
//! Listeners, each on a free port of 127.0.0.1: the harness's own (anonymous, always open), and on request one with passwords, one with
//! TLS and client certificates, one for WebSocket.

use crate::tls::{Authority, Leaf};
use crate::{Client, Process, eventually, free_port, scratch};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is out of the ordinary about a broker.
#[derive(Clone, Debug, Default)]
pub struct MosquittoOptions {
    users: Vec<(String, String)>,
    tls: Option<(PathBuf, PathBuf, PathBuf)>,
    websocket: bool,
    lines: Vec<String>,
    quiet: bool,
}

impl MosquittoOptions {
    /// A listener that wants one of these users ([`Mosquitto::login_url`]).
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// A listener with TLS that wants a client certificate of the same authority ([`Mosquitto::tls_url`]).
    pub fn tls(mut self, authority: &Authority, leaf: &Leaf) -> Self {
        self.tls = Some((authority.ca(), leaf.cert.clone(), leaf.key.clone()));
        self
    }

    /// A listener for MQTT over WebSocket ([`Mosquitto::websocket_url`]).
    pub fn websocket(mut self) -> Self {
        self.websocket = true;
        self
    }

    /// Any line of mosquitto.conf that holds for the whole broker.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Logs no packets: for benchmarks.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    pub fn start(self) -> Mosquitto {
        Mosquitto::with(self)
    }
}

pub struct Mosquitto {
    process: Process,
    dir: tempfile::TempDir,
    plain: u16,
    login: u16,
    tls: u16,
    websocket: u16,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::with(MosquittoOptions::default())
    }

    pub fn options() -> MosquittoOptions {
        MosquittoOptions::default()
    }

    fn with(options: MosquittoOptions) -> Self {
        let dir = scratch("mosquitto");
        let (plain, login, tls, websocket) = (free_port(), free_port(), free_port(), free_port());
        let mut text = String::from("per_listener_settings true\n");
        let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
        // What waits for a kept session is kept, however long its client is away.
        text += user;
        text += "max_queued_messages 0\nmax_queued_bytes 0\nset_tcp_nodelay true\nlog_dest stderr\n";
        text += if options.quiet { "log_type error\nsys_interval 0\n" } else { "log_type all\nsys_interval 1\n" };
        let _ = writeln!(
            text,
            "persistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes false",
            dir.path().display()
        );
        for line in &options.lines {
            text += line;
            text.push('\n');
        }
        let _ = writeln!(text, "listener {plain} 127.0.0.1\nallow_anonymous true");
        if !options.users.is_empty() {
            let file = dir.path().join("passwords");
            std::fs::write(&file, "").expect("a file can be written");
            for (name, password) in &options.users {
                let mut passwd = crate::peers::debian("mosquitto_passwd", "mosquitto");
                let done = passwd.arg("-b").arg(&file).args([name, password]).output().expect("mosquitto_passwd runs");
                assert!(done.status.success(), "mosquitto_passwd: {}", String::from_utf8_lossy(&done.stderr));
            }
            let _ = writeln!(text, "listener {login} 127.0.0.1\nallow_anonymous false\npassword_file {}", file.display());
        }
        if let Some((ca, cert, key)) = &options.tls {
            let _ = writeln!(
                text,
                "listener {tls} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\ncafile {}\ncertfile {}\nkeyfile {}",
                ca.display(),
                cert.display(),
                key.display()
            );
        }
        if options.websocket {
            let _ = writeln!(text, "listener {websocket} 127.0.0.1\nprotocol websockets\nallow_anonymous true");
        }
        std::fs::write(dir.path().join("mosquitto.conf"), text).expect("a file can be written");
        let process = launch(dir.path());
        let mut broker = Self { process, dir, plain, login, tls, websocket };
        broker.wait_ready();
        broker
    }

    pub fn port(&self) -> u16 {
        self.plain
    }

    /// `mqtt://` of the open listener.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.plain)
    }

    /// `mqtt://` of the listener that wants a password.
    pub fn login_url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.login)
    }

    /// `mqtts://` of the listener that wants a client certificate.
    pub fn tls_url(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.tls)
    }

    /// `ws://` of the WebSocket listener.
    pub fn websocket_url(&self) -> String {
        format!("ws://127.0.0.1:{}/mqtt", self.websocket)
    }

    /// A new client of the tests' own on the open listener.
    pub fn client(&self) -> Client {
        Client::connect(self.plain)
    }

    /// Publishes one message and waits for its acknowledgement.
    pub fn publish(&self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        let mut client = self.client();
        client.publish(topic, payload, qos, retain);
        client.finish();
    }

    /// Publishes with Debian's `mosquitto_pub`: for MQTT 5 properties (`-V 5 -D publish user-property k v`).
    pub fn mosquitto_pub(&self, args: &[&str]) {
        let mut command = crate::peers::debian("mosquitto_pub", "mosquitto-clients");
        let done = command.args(["-h", "127.0.0.1", "-p", &self.plain.to_string()]).args(args).output().expect("mosquitto_pub runs");
        assert!(done.status.success(), "mosquitto_pub {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A command line of `mosquitto_sub` for the open listener; `-F '%t %p %P'` prints topic, payload and MQTT 5 user properties.
    pub fn mosquitto_sub(&self, args: &[&str]) -> Command {
        let mut command = crate::peers::debian("mosquitto_sub", "mosquitto-clients");
        command.args(["-h", "127.0.0.1", "-p", &self.plain.to_string()]).args(args);
        command
    }

    /// SIGTERM; it saves what it keeps.
    pub fn stop(&mut self) {
        self.process.terminate();
        self.process.wait();
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same ports and data, and waits until it answers.
    pub fn restart(&mut self) {
        self.process.kill9();
        self.process = launch(self.dir.path());
        self.wait_ready();
    }

    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn thaw(&self) {
        self.process.thaw();
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What the broker logged: every packet, with `log_type all`.
    pub fn log(&self) -> String {
        self.process.output()
    }

    fn wait_ready(&mut self) {
        eventually("Mosquitto answers", || {
            assert!(self.process.is_running(), "Mosquitto ended at its start\n{}", self.process.output());
            Client::try_connect(self.plain, None, true).ok()
        });
    }
}

fn launch(dir: &Path) -> Process {
    let mut command = crate::peers::debian("mosquitto", "mosquitto");
    command.arg("-c").arg(dir.join("mosquitto.conf")).current_dir(dir);
    Process::start("Mosquitto", command, &dir.join("mosquitto.log"))
}
