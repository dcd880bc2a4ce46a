//! Foreign programs that use a Kafka broker and tell what they see, line by line: [`Program::agree`] runs one against Apache Kafka and against
//! the embedded broker, and wants the same lines of both.
//!
//! The programs are in `tests/peers/clients`. They say nothing that may differ between two runs; what they did not expect begins with
//! UNEXPECTED and fails the test, whoever said it.

use crate::{Embedded, Kafka, peers, scratch};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A client library with its program.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// PyPI's confluent-kafka.
    Librdkafka,
    /// PyPI's kafka-python.
    KafkaPython,
    /// npm's kafkajs.
    Kafkajs,
    /// Kafka's own clients and command-line tools, in one JVM.
    Java,
}

/// A broker to be asked.
#[derive(Clone, Debug)]
pub struct Side {
    pub name: &'static str,
    pub brokers: String,
}

impl Side {
    /// Apache Kafka as it comes, but for intervals: it tends its logs often enough for a test to wait for it.
    pub fn kafka() -> Self {
        static KAFKA: OnceLock<Kafka> = OnceLock::new();
        let kafka = KAFKA.get_or_init(|| {
            Kafka::options()
                .property("log.cleaner.backoff.ms", "200")
                .property("log.retention.check.interval.ms", "500")
                .property("log.initial.task.delay.ms", "500")
                .property("auto.create.topics.enable", "true")
                .start()
        });
        Self { name: "Apache Kafka", brokers: kafka.brokers() }
    }

    pub fn embedded() -> Self {
        Self { name: "the embedded broker", brokers: Embedded::shared().brokers() }
    }
}

impl Program {
    /// Runs scenarios against both brokers at once and wants the same lines.
    pub fn agree(self, scenarios: &[&str]) {
        self.agree_on([Side::kafka(), Side::embedded()], &format!("p{:06x}", fastrand::u32(..0x100_0000)), scenarios);
    }

    /// As [`Program::agree`], of these brokers and with this beginning of all names.
    pub fn agree_on(self, sides: [Side; 2], prefix: &str, scenarios: &[&str]) {
        let [kafka, ours] = std::thread::scope(|scope| {
            sides.clone().map(|side| scope.spawn(move || self.run(&side, prefix, scenarios))).map(|run| match run.join() {
                Ok(lines) => lines,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        for (side, lines) in sides.iter().zip([&kafka, &ours]) {
            let surprise = lines.iter().find(|line| line.contains("UNEXPECTED"));
            assert!(surprise.is_none(), "{self:?} did not expect of {}: {}", side.name, surprise.unwrap());
            for scenario in scenarios {
                let says = |line: &&String| line.split(':').next().is_some_and(|head| head.ends_with(scenario));
                assert!(lines.iter().any(|line| says(&line)), "{self:?} says nothing about {scenario} of {}", side.name);
            }
        }
        assert_same(&format!("{self:?}"), [&sides[0], &sides[1]], [&kafka, &ours]);
    }

    /// Runs scenarios (none: all) against one broker; the lines the program said.
    pub fn run(self, side: &Side, prefix: &str, scenarios: &[&str]) -> Vec<String> {
        let dir = scratch("client");
        let script = |name: &str| peers::scripts().join("clients").join(name);
        let python = |name: &str| {
            let python = peers::kafka_pythons();
            let packages = python.parent().and_then(Path::parent).expect("it lies in bin").join("packages");
            let mut command = Command::new(python);
            command.env("PYTHONPATH", packages).arg(script(name));
            command
        };
        let mut command = match self {
            Self::Librdkafka => python("librdkafka.py"),
            Self::KafkaPython => python("kafka_python.py"),
            Self::Kafkajs => {
                let mut node = peers::debian("node", "nodejs");
                node.env("NODE_PATH", peers::kafkajs().join("node_modules")).arg(script("kafkajs.js"));
                node
            }
            Self::Java => {
                // A source file is compiled when it is run: that takes the compiler.
                peers::debian("javac", "default-jdk-headless");
                Kafka::java(&script("Tools.java"), dir.path())
            }
        };
        // Records must be young enough to be kept, and have the same times at both brokers.
        static DAY_MS: OnceLock<String> = OnceLock::new();
        let day_ms = DAY_MS.get_or_init(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
            (since_1970.as_millis() - 86_400_000).to_string()
        });
        command.arg(&side.brokers).arg(prefix).env("DAY_MS", day_ms);
        if let Self::Java = self {
            command.arg(dir.path());
        }
        let output = command.args(scenarios).current_dir(dir.path()).output().expect("the program starts");
        lines_of(&format!("{self:?} of {}", side.name), &output)
    }
}

/// The lines of a program that ended well.
pub fn lines_of(what: &str, output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} ended with {}\n{text}\n{errors}", output.status);
    text.lines().map(str::to_owned).collect()
}

/// Wants the same lines of two brokers; shows where they part.
pub fn assert_same(what: &str, [one, other]: [&Side; 2], [expected, found]: [&[String]; 2]) {
    let common = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    if common == expected.len().max(found.len()) {
        return;
    }
    let show = |lines: &[String]| {
        lines[common.saturating_sub(3).min(lines.len())..].iter().take(8).map(|line| format!("  {line}\n")).collect::<String>()
    };
    panic!("{what} sees another broker in line {}\n{}:\n{}{}:\n{}", common + 1, one.name, show(expected), other.name, show(found));
}
