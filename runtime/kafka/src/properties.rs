//! librdkafka's properties: our defaults, and which of the user's would break a promise.
//!
//! Order, the later wins: our defaults, the user's `properties`, what a promise rests on.

use crate::error::KafkaError;
use crate::oauth::TokenSource;
use crate::raw::{Conf, Pin};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the cluster is and how to talk to it; one for all clients of a cluster.
#[derive(Clone)]
pub struct Settings {
    /// `host:port,host:port`.
    pub brokers: String,
    /// Shown in the brokers' logs and metrics.
    pub client_id: String,
    /// librdkafka's own, as the user gave them; secrets already resolved.
    pub properties: BTreeMap<String, String>,
    /// For `sasl.mechanism: OAUTHBEARER`.
    pub token: Option<Arc<dyn TokenSource>>,
    /// The only certificate that a broker may show; authorities and names don't count then.
    pub pin: Option<Arc<Pin>>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be passwords: names only.
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), client_id: "millrace".into(), properties: BTreeMap::new(), token: None, pin: None }
    }

    /// The same cluster with one more property.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// A configuration of these settings: `defaults` under the user's properties, `fixed` over them.
    pub(crate) fn conf(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> Result<Conf, KafkaError> {
        let mut conf = Conf::new();
        let common = [("bootstrap.servers", self.brokers.as_str()), ("client.id", self.client_id.as_str())];
        let users = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in
            common.into_iter().chain(COMMON.iter().copied()).chain(defaults.iter().copied()).chain(users).chain(fixed.iter().copied())
        {
            // Values may be passwords: librdkafka's text names the property.
            conf.set(name, value)
                .map_err(|error| KafkaError { text: format!("cannot set Kafka property {name}: {}", error.text), ..error })?;
        }
        if let Some(pin) = &self.pin {
            conf.pin(pin.clone())?;
        }
        Ok(conf)
    }

    /// Whether tokens must be given to the clients, rather than made by librdkafka (its unsecured ones, for tests).
    pub(crate) fn wants_token(&self) -> bool {
        self.token.is_some()
    }
}

const COMMON: &[(&str, &str)] = &[
    ("log_level", "6"),
    ("statistics.interval.ms", "0"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "5000"),
];

/// Of a producer, under the user's properties.
pub(crate) const PRODUCER: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("batch.num.messages", "10000"),
    ("compression.type", "lz4"),
    // What waits here lies in the log too; enough to fill the pipe, and no more memory than that.
    ("queue.buffering.max.kbytes", "32768"),
    ("queue.buffering.max.messages", "100000"),
    // A topic that was refused is asked for again this often: what a human has allowed is used soon.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// What the promises of a producer rest on.
pub(crate) const PRODUCER_FIXED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // As in Java, so that a key lies in the same partition whoever writes it.
    ("partitioner", "murmur2_random"),
    // A topic that is gone is made again as it was declared, not by the broker with its own defaults.
    ("allow.auto.create.topics", "false"),
];

/// Of a consumer, under the user's properties.
pub(crate) const CONSUMER: &[(&str, &str)] = &[
    ("fetch.wait.max.ms", "100"),
    ("fetch.queue.backoff.ms", "5"),
    ("queued.max.messages.kbytes", "16384"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("topic.metadata.refresh.interval.ms", "30000"),
];

pub(crate) const CONSUMER_FIXED: &[(&str, &str)] = &[("enable.auto.commit", "false"), ("enable.auto.offset.store", "false")];

/// A property the user may not set, or not so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PropertyProblem {
    pub name: String,
    /// What is wrong with it, and what to do instead: lowercase, no full stop.
    pub message: String,
}

/// Refused whatever their value, with the reason.
const REFUSED: &[(&[&str], &str)] = &[
    (&["bootstrap.servers", "metadata.broker.list"], "is what `brokers` says; set it there"),
    (&["acks", "request.required.acks"], "is always `all`: a record counts as delivered when every replica in sync has it"),
    (&["enable.idempotence"], "is always on: without it a retry may repeat or reorder records"),
    (&["enable.gapless.guarantee"], "would end the producer where a record can be set aside"),
    (&["transactional.id", "transaction.timeout.ms"], "belongs to `delivery: exactly_once`"),
    (
        &["message.timeout.ms", "delivery.timeout.ms", "retries", "message.send.max.retries"],
        "would give a record up; the log keeps it until Kafka has it",
    ),
    (&["partitioner"], "is always murmur2_random, as in Java: a key lies in the same partition whoever writes it"),
    (&["queuing.strategy"], "would reorder records"),
    (&["allow.auto.create.topics"], "would let the broker make topics with its own defaults; they are made as `topics` declares them"),
    (&["dr_cb", "dr_msg_cb", "delivery.report.only.error"], "would hide what was delivered"),
    (
        &["enable.auto.commit", "auto.commit.interval.ms", "auto.commit.enable", "enable.auto.offset.store"],
        "would commit offsets of records that no sink has written; offsets follow the sink's flush",
    ),
    (&["auto.offset.reset"], "is what the sink's `start` says; set it there"),
    (&["isolation.level"], "is always read_committed"),
    (&["group.id", "group.protocol"], "is what the sink's `group` says; set it there"),
    (&["enable.partition.eof", "check.crcs"], "is the runtime's own"),
    (&["plugin.library.paths", "interceptors", "test.mock.num.brokers", "opaque", "default_topic_conf"], "is not available here"),
];

/// Says which of the user's properties would break a promise, are unknown, or hold a value that can't be. No I/O.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Vec<PropertyProblem> {
    let mut problems = Vec::new();
    for (name, value) in properties {
        let mut refuse = |message: String| problems.push(PropertyProblem { name: name.clone(), message });
        if let Some((_, why)) = REFUSED.iter().find(|(names, _)| names.contains(&name.as_str())) {
            refuse(format!("Kafka property {name} {why}"));
            continue;
        }
        match (name.as_str(), value.trim()) {
            ("max.in.flight" | "max.in.flight.requests.per.connection", v) if v.parse::<u32>().is_ok_and(|n| n > 5) => {
                refuse(format!("Kafka property {name} is {v}: more than 5 requests in flight would reorder records; use 1 to 5"));
            }
            ("sasl.mechanism" | "sasl.mechanisms", v) if v.eq_ignore_ascii_case("OAUTHBEARER") => {
                refuse(format!(
                    "Kafka property {name} cannot be OAUTHBEARER: this release has no way to fetch a token; use SCRAM-SHA-512, PLAIN or client certificates"
                ));
            }
            ("sasl.oauthbearer.method", v) if v.eq_ignore_ascii_case("oidc") => {
                refuse(
                    "Kafka property sasl.oauthbearer.method cannot be oidc: the bundled librdkafka has no HTTP client to fetch tokens with"
                        .into(),
                );
            }
            ("sasl.mechanism" | "sasl.mechanisms", v) if v.eq_ignore_ascii_case("GSSAPI") => {
                refuse(format!(
                    "Kafka property {name} cannot be GSSAPI: this build has no Kerberos; use SCRAM-SHA-512, PLAIN or client certificates"
                ));
            }
            _ => {
                if let Err(error) = Conf::new().set(name, value) {
                    // librdkafka repeats the value in its text, and values may be secrets.
                    let why = if value.is_empty() { error.text } else { error.text.replace(value.as_str(), "...") };
                    refuse(format!("Kafka property {name} cannot be set: {}", lower_first(&why)));
                }
            }
        }
    }
    problems
}

fn lower_first(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check_properties(&map).into_iter().map(|p| p.message).collect()
    }

    #[test]
    fn what_tunes_or_secures_passes() {
        let fine = [
            ("compression.type", "zstd"),
            ("linger.ms", "20"),
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("sasl.password", "p"),
            ("ssl.ca.location", "/etc/ca.pem"),
            ("max.in.flight", "5"),
        ];
        assert_eq!(problems(&fine), Vec::<String>::new());
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (name, value) in [
            ("acks", "1"),
            ("enable.idempotence", "false"),
            ("transactional.id", "x"),
            ("message.timeout.ms", "1000"),
            ("partitioner", "random"),
            ("max.in.flight", "6"),
            ("enable.auto.commit", "true"),
            ("isolation.level", "read_uncommitted"),
            ("group.id", "x"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.mechanism", "GSSAPI"),
            ("sasl.mechanism", "OAUTHBEARER"),
        ] {
            let found = problems(&[(name, value)]);
            assert_eq!(found.len(), 1, "{name}");
            assert!(found[0].contains(name), "{}", found[0]);
        }
    }

    #[test]
    fn an_unknown_name_or_a_wrong_value_is_refused_and_a_value_is_never_printed() {
        assert!(problems(&[("linger.msx", "5")])[0].contains("linger.msx"));
        let wrong = problems(&[("security.protocol", "hunter2")]);
        assert_eq!(wrong.len(), 1);
        assert!(!wrong[0].contains("hunter2"), "{}", wrong[0]);
    }
}
