//! Foreign clients of a schema registry, as they are: each decodes values with its library's own deserializers.
//!
//! The programs are in `tests/peers`: lines of `{"format", "topic", "value": base64, "message"}` in, a line of JSON for each out.

use crate::peers;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// A client library with its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoder {
    /// PyPI's confluent-kafka.
    ConfluentPython,
    /// npm's @confluentinc/schemaregistry.
    ConfluentNode,
    /// Apicurio's Java serdes: these speak an interface of their own, below the registry's address.
    ApicurioJava,
}

impl Decoder {
    pub const ALL: [Self; 3] = [Self::ConfluentPython, Self::ConfluentNode, Self::ApicurioJava];

    /// What it makes of each value, asking the registry at `url` for the schemas.
    pub fn decode(self, url: &str, values: &[Value]) -> Vec<Value> {
        let command = match self {
            Self::ConfluentPython => confluent_python("decode.py", url),
            Self::ConfluentNode => {
                let mut node = peers::debian("node", "nodejs");
                node.arg(peers::scripts().join("decode.js")).arg(peers::confluent_node()).arg(url);
                node
            }
            Self::ApicurioJava => {
                let mut java = peers::debian("java", "default-jre-headless");
                java.args(["-Xmx200m", "-XX:+UseSerialGC", "-cp"]).arg(peers::apicurio_serdes()).arg("Decode").arg(url);
                java
            }
        };
        let decoded = said(&format!("{self:?}"), command, values);
        assert_eq!(decoded.len(), values.len(), "{self:?}: {decoded:?}");
        decoded
    }
}

/// Values that confluent-kafka wrote with its own serializers, their schemas registered on the way: one of each format.
pub fn encoded_by_confluent_python(url: &str) -> Vec<Value> {
    said("confluent-kafka", confluent_python("encode.py", url), &[])
}

/// Two orders in Protobuf of a topic, as confluent-kafka writes them: the second by a schema that has new fields.
pub fn orders_by_confluent_python(url: &str, topic: &str) -> Vec<Value> {
    let mut python = confluent_python("orders.py", url);
    python.arg(topic);
    said("confluent-kafka", python, &[])
}

fn confluent_python(script: &str, url: &str) -> Command {
    let mut command = peers::debian("python3", "python3");
    command.env("PYTHONPATH", peers::confluent_python()).arg(peers::scripts().join(script)).arg(url);
    command
}

/// What a program prints, given these lines: one value of JSON per line.
fn said(name: &str, mut command: Command, values: &[Value]) -> Vec<Value> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let mut input = child.stdin.take().expect("its input is a pipe");
    let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
    // One that fails at once does not read; what it says is below.
    let _ = input.write_all(lines.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("a child can be waited for");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{name} says {line}: {error}"))).collect()
}
