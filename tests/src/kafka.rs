//! An Apache Kafka broker: one KRaft node, broker and controller in one, from Maven's jars.
//!
//! Listeners, each on a free port of 127.0.0.1: PLAIN (the harness's own, always open), SECURED (TLS, SASL or both, when asked for) and PROXIED
//! (advertises another port, so that every connection of a client runs through a fault proxy listening there).

use crate::tls::{Authority, Leaf};
use crate::{Process, eventually, free_port, scratch};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// What is out of the ordinary about a broker.
#[derive(Clone, Debug, Default)]
pub struct KafkaOptions {
    /// The SECURED listener speaks TLS with a certificate of this authority's leaf.
    tls: Option<(PathBuf, PathBuf)>,
    /// The SECURED listener wants SCRAM-SHA-512 from one of these users.
    users: Vec<(String, String)>,
    /// The StandardAuthorizer judges: nobody but the harness may do anything unless [`Kafka::allow`] says so.
    authorizer: bool,
    /// A listener that advertises the port of a fault proxy.
    proxied: bool,
    properties: Vec<(String, String)>,
    heap_mib: Option<u32>,
}

impl KafkaOptions {
    pub fn tls(mut self, authority: &Authority, leaf: &Leaf) -> Self {
        self.tls = Some((authority.ca(), leaf.both.clone()));
        self
    }

    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    pub fn authorizer(mut self) -> Self {
        self.authorizer = true;
        self
    }

    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// The largest record the broker takes, in bytes.
    pub fn message_max_bytes(self, bytes: usize) -> Self {
        self.property("message.max.bytes", &bytes.to_string())
    }

    /// Any property of the broker, as Kafka names it.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The heap of its virtual machine; 400 MiB unless told otherwise.
    pub fn heap_mib(mut self, mib: u32) -> Self {
        self.heap_mib = Some(mib);
        self
    }

    pub fn start(self) -> Kafka {
        Kafka::with(self)
    }
}

pub struct Kafka {
    kind: Kind,
    /// `None`: it runs in another process under test.
    process: Option<Process>,
    dir: tempfile::TempDir,
    plain: u16,
    secured: Option<u16>,
    /// Where the PROXIED listener listens, and what it tells clients to connect to.
    proxied: Option<(u16, u16)>,
}

/// Which program serves.
#[derive(Clone, Copy)]
enum Kind {
    Apache {
        heap_mib: u32,
    },
    /// `millrace broker`; with its `--sync`, in milliseconds.
    Millrace {
        sync_ms: u64,
    },
}

impl Kafka {
    /// `millrace broker` instead of Apache Kafka. `sync_ms` of 0: an acknowledged record is on the disk.
    pub fn millrace(sync_ms: u64) -> Self {
        let (dir, plain, kind) = (scratch("broker"), free_port(), Kind::Millrace { sync_ms });
        let process = Some(launch(kind, dir.path(), plain));
        let mut kafka = Self { kind, process, dir, plain, secured: None, proxied: None };
        kafka.wait_ready();
        kafka
    }

    /// The broker inside a runtime under test, which listens on this port.
    pub fn inside(port: u16) -> Self {
        let kind = Kind::Millrace { sync_ms: 200 };
        Self { kind, process: None, dir: scratch("inside"), plain: port, secured: None, proxied: None }
    }

    /// Where it keeps what it has.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn own(&mut self) -> &mut Process {
        self.process.as_mut().expect("this Kafka is a process of the tests' own")
    }

    /// The broker that tests share which need no more isolation than names of their own ([`Kafka::topic`]).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A broker of the test's own, to be killed and frozen.
    pub fn start() -> Self {
        Self::with(KafkaOptions::default())
    }

    pub fn options() -> KafkaOptions {
        KafkaOptions::default()
    }

    fn with(options: KafkaOptions) -> Self {
        let dir = scratch("kafka");
        let (plain, controller) = (free_port(), free_port());
        let is_secured = options.tls.is_some() || !options.users.is_empty();
        let secured = is_secured.then(free_port);
        let proxied = options.proxied.then(|| (free_port(), free_port()));
        std::fs::write(dir.path().join("server.properties"), properties(&options, dir.path(), plain, controller, secured, proxied))
            .expect("a file can be written");
        std::fs::write(dir.path().join("log4j2.properties"), LOGGING).expect("a file can be written");

        format(dir.path(), &options.users);
        let kind = Kind::Apache { heap_mib: options.heap_mib.unwrap_or(400) };
        let process = Some(launch(kind, dir.path(), plain));
        let mut kafka = Self { kind, process, dir, plain, secured, proxied };
        kafka.wait_ready();
        kafka
    }

    /// A command that runs a class, or a source file, with Kafka's jars.
    pub fn java(class: &Path, log: &Path) -> Command {
        std::fs::write(log.join("log4j2.properties"), "rootLogger.level = OFF\n").expect("a file can be written");
        let mut java = java(log, "-Xmx200m");
        java.arg(class);
        java
    }

    /// `bootstrap.servers` of the open listener.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.plain)
    }

    /// `bootstrap.servers` of the listener with TLS or SASL.
    pub fn secured_brokers(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("this Kafka was started with tls() or user()"))
    }

    /// Where a fault proxy has to connect to (the PROXIED listener).
    pub fn behind_proxy(&self) -> u16 {
        self.proxied.expect("this Kafka was started with proxied()").0
    }

    /// Where a fault proxy has to listen, and what its clients take as `bootstrap.servers` on 127.0.0.1.
    pub fn proxy_port(&self) -> u16 {
        self.proxied.expect("this Kafka was started with proxied()").1
    }

    /// A name no other test uses: `{prefix}-{random}`.
    pub fn topic(&self, prefix: &str) -> String {
        format!("{prefix}-{:08x}", fastrand::u32(..))
    }

    /// Deletes a topic, with all it holds.
    pub fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client can be made");
        for result in block_on(admin.delete_topics(&[name], &AdminOptions::new())).expect("the broker answers") {
            result.unwrap_or_else(|(topic, code)| panic!("cannot delete topic {topic}: {code}"));
        }
    }

    /// Creates a topic, with properties as Kafka names them.
    pub fn create_topic(&self, name: &str, partitions: i32, properties: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client can be made");
        let topic = properties
            .iter()
            .fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |topic, (key, value)| topic.set(key, value));
        let outcome = block_on(admin.create_topics([&topic], &AdminOptions::new())).expect("the broker answers");
        for result in outcome {
            result.unwrap_or_else(|(topic, code)| panic!("cannot create topic {topic}: {code}"));
        }
    }

    /// Deletes all records that a partition has now.
    pub fn delete_records(&self, topic: &str, partition: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client can be made");
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::End).expect("an offset");
        let deleted = block_on(admin.delete_records(&offsets, &AdminOptions::new())).expect("the broker answers");
        deleted.elements().iter().for_each(|part| part.error().expect("the records are deleted"));
    }

    /// The topics there are, with their numbers of partitions.
    pub fn topics(&self) -> Vec<(String, usize)> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(20)).expect("the broker answers");
        metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
    }

    /// Runs one of Kafka's own tools (`TopicCommand`, `ConfigCommand`, `AclCommand`, ...) and returns what it printed.
    pub fn tool(&self, class: &str, args: &[&str]) -> String {
        let package = if class == "ConfigCommand" { "kafka.admin" } else { "org.apache.kafka.tools" };
        let mut command = java(self.dir.path(), "-Xmx128m");
        command.arg(format!("{package}.{class}")).args(["--bootstrap-server", &self.brokers()]).args(args);
        let output = command.output().expect("java starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{class} {args:?} failed\n{text}");
        text
    }

    /// Allows a user operations, as `kafka-acls` takes them: `allow("millrace", &["--operation", "All", "--topic", "*"])`.
    pub fn allow(&self, user: &str, args: &[&str]) {
        self.acl("--add", "--allow-principal", user, args);
    }

    pub fn deny(&self, user: &str, args: &[&str]) {
        self.acl("--add", "--deny-principal", user, args);
    }

    fn acl(&self, verb: &str, principal: &str, user: &str, args: &[&str]) {
        let user = format!("User:{user}");
        let mut all = vec![verb, "--force", principal, &user];
        all.extend_from_slice(args);
        // The class moved between Kafka's modules; 4.1 has it here.
        self.tool("AclCommand", &all);
    }

    /// A client's configuration for the open listener.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("log_level", "3");
        config
    }

    /// Kills the broker as a power switch would; its data stays.
    pub fn kill9(&mut self) {
        self.own().kill9();
    }

    /// Starts it again on the same ports and data, and waits until it answers.
    pub fn restart(&mut self) {
        self.own().kill9();
        self.process = Some(launch(self.kind, self.dir.path(), self.plain));
        self.wait_ready();
    }

    /// Kills it, takes everything from it that it held, and starts it again: somebody has put another disk in.
    pub fn wipe(&mut self) {
        self.own().kill9();
        std::fs::remove_dir_all(self.dir.path().join("data")).expect("its data can be removed");
        if let Kind::Apache { .. } = self.kind {
            format(self.dir.path(), &[]);
        }
        self.restart();
    }

    /// Starts it again without waiting.
    pub fn relaunch(&mut self) {
        self.own().kill9();
        self.process = Some(launch(self.kind, self.dir.path(), self.plain));
    }

    pub fn freeze(&self) {
        self.process().freeze();
    }

    pub fn thaw(&self) {
        self.process().thaw();
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("this Kafka is a process of the tests' own")
    }

    /// Waits until the broker answers a request for metadata and is its own controller.
    pub fn wait_ready(&mut self) {
        let consumer: BaseConsumer = self.client().create().expect("a consumer can be made");
        eventually("Kafka answers", || {
            if let Some(process) = &mut self.process {
                assert!(process.is_running(), "Kafka ended at its start\n{}", process.output());
            }
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(1)).ok()?;
            (!metadata.brokers().is_empty()).then_some(())
        });
    }
}

fn launch(kind: Kind, dir: &Path, port: u16) -> Process {
    let command = match kind {
        Kind::Apache { heap_mib } => {
            let mut command = java(dir, &format!("-Xmx{heap_mib}m"));
            command.arg("kafka.Kafka").arg(dir.join("server.properties"));
            command
        }
        Kind::Millrace { sync_ms } => {
            let mut command = Command::new(crate::binary::binary());
            command.arg("broker").arg("--data").arg(dir.join("data"));
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--sync", &format!("{sync_ms}ms")]);
            command
        }
    };
    Process::start("Kafka", command, &dir.join("kafka.log"))
}

fn java(dir: &Path, heap: &str) -> Command {
    let mut java = crate::peers::debian("java", "default-jre-headless");
    java.args([heap, "-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4"]);
    java.arg(format!("-Dlog4j2.configurationFile={}", dir.join("log4j2.properties").display()));
    java.arg("-cp").arg(crate::peers::kafka_libs().join("*")).current_dir(dir);
    java
}

const LOGGING: &str = "\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
logger.kafka.name = kafka.server.KafkaRaftServer
logger.kafka.level = INFO
";

fn properties(
    options: &KafkaOptions,
    dir: &Path,
    plain: u16,
    controller: u16,
    secured: Option<u16>,
    proxied: Option<(u16, u16)>,
) -> String {
    let mut listeners = format!("PLAIN://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}");
    let mut advertised = format!("PLAIN://127.0.0.1:{plain}");
    let mut protocols = "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT".to_owned();
    let mut text = String::new();
    if let Some((port, told)) = proxied {
        listeners += &format!(",PROXIED://127.0.0.1:{port}");
        advertised += &format!(",PROXIED://127.0.0.1:{told}");
    }
    if let Some(port) = secured {
        listeners += &format!(",SECURED://127.0.0.1:{port}");
        advertised += &format!(",SECURED://127.0.0.1:{port}");
        let protocol = match (&options.tls, options.users.is_empty()) {
            (Some(_), true) => "SSL",
            (Some(_), false) => "SASL_SSL",
            (None, _) => "SASL_PLAINTEXT",
        };
        protocols += &format!(",SECURED:{protocol}");
    }
    if let Some((ca, both)) = &options.tls {
        text += &format!(
            "listener.name.secured.ssl.keystore.type=PEM\nlistener.name.secured.ssl.keystore.location={}\n\
             listener.name.secured.ssl.truststore.type=PEM\nlistener.name.secured.ssl.truststore.location={}\n\
             listener.name.secured.ssl.client.auth=requested\n",
            both.display(),
            ca.display()
        );
    }
    if !options.users.is_empty() {
        let users: String = options.users.iter().map(|(name, password)| format!(" user_{name}=\"{password}\"")).collect();
        text += &format!(
            "listener.name.secured.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN\n\
             listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required{users};\n"
        );
    }
    if options.authorizer {
        text += "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n";
    }
    text += &format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners={listeners}\nadvertised.listeners={advertised}\nlistener.security.protocol.map={protocols}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAIN\nlog.dirs={}\n\
         auto.create.topics.enable=false\nnum.partitions=1\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\nlog.cleaner.dedupe.buffer.size=4194304\nlog.cleaner.threads=1\n\
         num.network.threads=2\nnum.io.threads=4\nlog.segment.bytes=67108864\n",
        dir.join("data").display()
    );
    for (name, value) in &options.properties {
        text += &format!("{name}={value}\n");
    }
    text
}

/// Makes the data folder of an Apache Kafka that was never there.
fn format(dir: &Path, users: &[(String, String)]) {
    let mut format = java(dir, "-Xmx128m");
    format.arg("kafka.tools.StorageTool").args(["format", "--ignore-formatted", "-t", "Y7wSYnXbQxS2hTQ4ECAvYA", "-c"]);
    format.arg(dir.join("server.properties"));
    for (name, password) in users {
        format.args(["--add-scram", &format!("SCRAM-SHA-512=[name={name},password={password}]")]);
    }
    let output = format.output().expect("java starts");
    assert!(
        output.status.success(),
        "Kafka's storage can't be formatted\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Drives a future of librdkafka's admin client, which completes on a thread of its own.
fn block_on<F: std::future::Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => std::thread::park(),
        }
    }
}
