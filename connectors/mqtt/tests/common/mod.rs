//! A mosquitto on a free port, gone with the test; and a client of this crate's own to talk to it.

#![allow(dead_code)] // each test file uses its part

use millrace_contract::{Compiled, Context, Failure, Plugin};
use millrace_mqtt::MqttSource;
use millrace_mqtt::packet::{AckKind, Message, Packet, Qos, Version, write_ack, write_publish, write_subscribe};
use millrace_mqtt::session::{Inbound, Opening, Session, Step};
use millrace_mqtt::transport::Endpoint;
use millrace_testkit::{TestHost, soon, yaml};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A real broker. Dropped, it is killed and its folder removed.
pub struct Mosquitto {
    child: Child,
    pub port: u16,
    /// Of the second listener, where it has one.
    pub other_port: u16,
    has_other: bool,
    pub dir: TempDir,
}

impl Mosquitto {
    pub async fn start() -> Self {
        Self::with("allow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n").await
    }

    /// Starts it with these lines of configuration, besides the listener.
    pub async fn with(config: &str) -> Self {
        Self::with_listener(config, "").await
    }

    /// `other` are the lines of a second listener: certificates, `protocol websockets`.
    pub async fn with_listener(config: &str, other: &str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let (port, other_port) = (free_port(), free_port());
        let path = dir.path().join("mosquitto.conf");
        let mut text = format!("user root\n{config}\nlistener {port} 127.0.0.1\n");
        if !other.is_empty() {
            text += &format!("listener {other_port} 127.0.0.1\n{other}\n");
        }
        std::fs::write(&path, text).expect("the configuration is written");
        let child = spawn(&path);
        let broker = Self { child, port, other_port, has_other: !other.is_empty(), dir };
        broker.until_it_listens().await;
        broker
    }

    async fn until_it_listens(&self) {
        soon("mosquitto listens", async {
            for port in [Some(self.port), self.has_other.then_some(self.other_port)].into_iter().flatten() {
                while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
        .await;
    }

    pub fn endpoint(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Kills it as kill -9 does, without a last word, and starts it again.
    pub async fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(&self.dir.path().join("mosquitto.conf"));
        self.until_it_listens().await;
    }

    pub async fn client(&self, id: &str) -> Client {
        Client::open(&self.endpoint(), id).await
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Path) -> Child {
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"].map(PathBuf::from);
    let Some(program) = program.into_iter().find(|path| path.exists()) else {
        panic!("mosquitto is not installed; type: apt-get install -y mosquitto mosquitto-clients");
    };
    let mut command = Command::new(program);
    command.arg("-c").arg(config).stdin(Stdio::null());
    if std::env::var_os("MOSQUITTO_LOG").is_none() {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    } else {
        command.arg("-v");
    }
    command.spawn().expect("mosquitto starts")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// A plain client: publishes, and reads what it subscribed to.
pub struct Client {
    session: Session,
    next_id: u16,
}

/// A message as a client got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub user: Vec<(String, String)>,
}

pub fn opening(endpoint: &str, client_id: &str) -> Opening {
    Opening {
        endpoint: Endpoint::parse(endpoint).expect("an endpoint"),
        tls: Default::default(),
        version: Version::V5,
        client_id: client_id.into(),
        login: None,
        keep_alive: Duration::from_secs(60),
        clean_start: true,
        session_expiry: Duration::ZERO,
        receive_maximum: 65_535,
        max_packet: 64 << 20,
        will: None,
        answered: Default::default(),
    }
}

impl Client {
    pub async fn open(endpoint: &str, id: &str) -> Self {
        let session =
            soon("the test's client connects", Session::open(&opening(endpoint, id))).await.expect("the broker lets the client in");
        Self { session, next_id: 0 }
    }

    /// Publishes and waits until the broker has it.
    pub async fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        self.publish_all([(topic.to_owned(), payload.to_vec())], qos, retain, &[]).await;
    }

    pub async fn publish_all(&mut self, messages: impl IntoIterator<Item = (String, Vec<u8>)>, qos: u8, retain: bool, properties: &[u8]) {
        let qos = Qos::from_bits(qos).expect("a QoS");
        let most = usize::from(self.session.connack.receive_maximum.min(2000)) * 3 / 4;
        let mut open = 0_usize;
        for (topic, payload) in messages {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            let message = Message { topic: &topic, payload: &payload, qos, retain, properties };
            write_publish(&mut self.session.line.out, Version::V5, &message, self.next_id);
            open += usize::from(qos != Qos::AtMostOnce);
            while open > most {
                open -= self.acks().await;
            }
        }
        while open > 0 {
            open -= self.acks().await;
        }
        soon("the test's client writes", self.session.flush()).await.expect("it writes");
    }

    /// Waits for something, and says how many publishes are done.
    async fn acks(&mut self) -> usize {
        let step = soon("the broker acknowledges", self.session.alongside(true, std::future::pending::<()>())).await;
        assert!(matches!(step, Ok(Step::Read)));
        let mut done = 0;
        while let Some(inbound) = self.session.inbox.next(Version::V5).expect("mqtt") {
            if let Inbound::Packet(Packet::Ack(ack)) = inbound {
                match ack.kind {
                    AckKind::Pubrec => write_ack(&mut self.session.line.out, AckKind::Pubrel, ack.id),
                    _ => done += 1,
                }
            }
        }
        done
    }

    pub async fn subscribe(&mut self, filter: &str) {
        write_subscribe(&mut self.session.line.out, Version::V5, 1, filter, Qos::AtMostOnce, 0);
        loop {
            let step = soon("the broker grants", self.session.alongside(true, std::future::pending::<()>())).await;
            assert!(matches!(step, Ok(Step::Read)));
            match self.session.inbox.next(Version::V5).expect("mqtt") {
                Some(Inbound::Packet(Packet::Suback(_))) => return,
                Some(Inbound::Packet(Packet::Publish(_))) => self.session.inbox.put_back(),
                _ => {}
            }
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Got {
        loop {
            if let Some(inbound) = self.session.inbox.next(Version::V5).expect("mqtt") {
                if let Inbound::Packet(Packet::Publish(publish)) = inbound {
                    use millrace_mqtt::packet::Property;
                    let user = publish
                        .properties()
                        .filter_map(|property| match property {
                            Property::User(key, value) => Some((key.to_owned(), value.to_owned())),
                            _ => None,
                        })
                        .collect();
                    let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_vec());
                    return Got { topic, payload, retain: publish.retain, user };
                }
                continue;
            }
            let step = soon("a message arrives", self.session.alongside(true, std::future::pending::<()>())).await;
            assert!(matches!(step, Ok(Step::Read)), "the broker ended the connection");
        }
    }

    /// Keeps publishing whatever comes, for ever.
    pub async fn flood(mut self, topic: String, payload: Vec<u8>) {
        loop {
            let message = Message { topic: &topic, payload: &payload, qos: Qos::AtMostOnce, retain: false, properties: &[] };
            write_publish(&mut self.session.line.out, Version::V5, &message, 0);
            if self.session.flush().await.is_err() {
                return;
            }
        }
    }
}

/// Compiles a connector from YAML; fails the test with the problems.
pub fn compile<P: Plugin>(text: &str) -> Box<dyn Compiled> {
    yaml::compile::<P>(text, &context()).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// What stands around a connector named `m` that has no `at`.
pub fn context() -> Context {
    Context { at: String::new(), ..yaml::context("m", &[]) }
}

/// A broker that plays a part: it answers each packet that comes, by its type, with the bytes it is told, and says no more.
pub async fn scripted(answers: Vec<(u8, Vec<u8>)>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("mqtt://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut answers = answers.into_iter().peekable();
                let mut bytes = Vec::new();
                loop {
                    while let Ok(Some(frame)) = millrace_mqtt::packet::Frame::read(&bytes)
                        && bytes.len() >= frame.len()
                    {
                        bytes.drain(..frame.len());
                        while let Some((_, answer)) = answers.next_if(|(kind, _)| *kind == frame.first >> 4) {
                            socket.write_all(&answer).await.expect("the source reads");
                        }
                    }
                    if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
            });
        }
    });
    endpoint
}

/// Begins a session.
pub fn start(compiled: &dyn Compiled, host: &TestHost) -> JoinHandle<Result<(), Failure>> {
    let mut source = compiled.source().expect("a source");
    let host = host.clone();
    tokio::spawn(async move { source.session(host.io()).await })
}

/// A running source of this YAML (without endpoint), and its host.
pub struct Run {
    pub host: TestHost,
    pub task: JoinHandle<Result<(), Failure>>,
}

impl Run {
    pub async fn of(mosquitto: &Mosquitto, keys: &str) -> Self {
        let yaml = format!("{{endpoint: '{}', {keys}}}", mosquitto.endpoint());
        let compiled = compile::<MqttSource>(&yaml);
        let host = TestHost::of(&*compiled);
        Self::with(&*compiled, host).await
    }

    pub async fn with(compiled: &dyn Compiled, host: TestHost) -> Self {
        let before = host.statuses("").len();
        let mut task = start(compiled, &host);
        tokio::select! {
            () = host.until("the source runs", |host| host.statuses("").len() > before) => {}
            ended = &mut task => panic!("the session ended: {ended:?}"),
        }
        Self { host, task }
    }

    pub async fn stop(self) -> TestHost {
        self.host.stop();
        let ended = soon("the source stops", self.task).await.expect("no panic");
        assert_eq!(ended, Err(Failure::Stopped));
        self.host
    }
}
