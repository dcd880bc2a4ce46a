//! The rights in Kafka (ACLs) that the file needs and the login does not have, each with the line to type.
//!
//! The cluster says itself what it allows: nothing is written, no group is joined.

use crate::doctor::finding::Finding;
use millrace_config::factory::{Delivery, Factory};
use millrace_engine::compile::CompiledFactory;
use millrace_engine::lease::view;
use millrace_engine::topics::{Topics, dead_letter_of};
use millrace_engine::{catalog, commands, cursors};
use millrace_kafka::{Admin, Allowed, KafkaError, Operation, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is done with topics and groups.
#[derive(Default, Debug, PartialEq)]
struct Needs {
    topics: BTreeMap<String, BTreeSet<Operation>>,
    groups: BTreeSet<String>,
}

impl Needs {
    fn of(works: &CompiledFactory) -> Self {
        let mut needs = Self::default();
        for source in &works.sources {
            let model = source.compiled.model();
            let tags = model.tags.iter().map(|tag| tag.options.topic.as_deref().unwrap_or(&tag.topic));
            for topic in tags.chain(model.routes.iter().map(|route| &*route.topic)) {
                needs.writes(topic, &works.topics);
            }
        }
        for topic in works.topics.all() {
            needs.topic(&topic.name, &[Operation::Write]);
        }
        needs.topic(cursors::TOPIC, &[Operation::Read, Operation::Write]);
        needs.topic(catalog::TOPIC, &[Operation::Write]);
        if let Some(sharing) = &works.sharing {
            for topic in [view::ASSIGN, view::STATUS] {
                needs.topic(topic, &[Operation::Read, Operation::Write]);
            }
            needs.groups.insert(sharing.consumer_group(&works.site));
        }
        for sink in &works.sinks {
            needs.reads(&sink.topics, &sink.group, &works.topics);
        }
        for rules in &works.commands {
            needs.reads(&rules.topics, &rules.group, &works.topics);
            needs.topic(commands::AUDIT, &[Operation::Write]);
            if let Some(reply) = &rules.reply {
                needs.topic(reply, &[Operation::Write]);
            }
        }
        needs
    }

    /// A template or a pattern names no topic; what it stands for is not known before it runs.
    fn topic(&mut self, name: &str, operations: &[Operation]) {
        if !name.is_empty() && !name.contains(['{', '*']) {
            self.topics.entry(name.to_owned()).or_default().extend(operations.iter().copied().chain([Operation::Describe]));
        }
    }

    fn writes(&mut self, topic: &str, known: &Topics) {
        self.topic(topic, &[Operation::Write]);
        self.dead_letter(topic, known);
    }

    fn reads(&mut self, topics: &[String], group: &str, known: &Topics) {
        for topic in topics {
            self.topic(topic, &[Operation::Read]);
            self.dead_letter(topic, known);
        }
        self.groups.insert(group.to_owned());
    }

    fn dead_letter(&mut self, topic: &str, known: &Topics) {
        let dead = known.declared(topic).map_or_else(|| dead_letter_of(topic), |topic| topic.dead_letter.clone());
        self.topic(&dead, &[Operation::Write]);
    }
}

/// What is missing; one finding that says so where nothing is.
pub fn look(factory: &Factory, works: &CompiledFactory, settings: &Settings) -> Vec<Finding> {
    let needs = Needs::of(works);
    let found = Admin::new(settings, PATIENCE).and_then(|admin| missing(&admin, &needs, settings));
    let mut findings = found.unwrap_or_else(|error| {
        let help = "is the broker up, is the login right, may it describe the cluster?".to_owned();
        vec![Finding { what: "kafka's rights".into(), ok: false, says: error.to_string(), help }]
    });
    if factory.kafka.delivery == Delivery::ExactlyOnce && factory.kafka.brokers.value != millrace_engine::cluster::EMBEDDED {
        let says = format!(
            "`delivery: exactly_once` needs Write and Describe on the transactional id {}; that is not asked, since asking would end its transactions",
            works.transactional_id()
        );
        findings.push(Finding { what: "kafka's transactional id".into(), ok: true, says, help: String::new() });
    }
    findings
}

fn missing(admin: &Admin, needs: &Needs, settings: &Settings) -> Result<Vec<Finding>, KafkaError> {
    let names: Vec<&str> = needs.topics.keys().map(String::as_str).collect();
    let (mut findings, mut absent, mut is_untold) = (Vec::new(), Vec::new(), false);
    for ((name, wanted), allowed) in needs.topics.iter().zip(admin.allowed_on_topics(&names)?) {
        let wanted: Vec<Operation> = wanted.iter().copied().collect();
        is_untold |= allowed == Allowed::Untold;
        if allowed == Allowed::NotThere {
            absent.push(name.as_str());
        }
        findings.extend(finding(format!("topic {name}"), &allowed.missing(&wanted), &format!("--topic {}", quoted(name)), settings));
    }
    for group in &needs.groups {
        let allowed = admin.allowed_on_group(group)?;
        is_untold |= allowed == Allowed::Untold;
        let wanted = [Operation::Read, Operation::Describe];
        findings.extend(finding(format!("group {group}"), &allowed.missing(&wanted), &format!("--group {}", quoted(group)), settings));
    }
    if !absent.is_empty() {
        // Without Describe the cluster says nothing of what else is allowed on it.
        let missing = admin.allowed_on_cluster()?.missing(&[Operation::Create, Operation::Describe]);
        let why = match missing.contains(&Operation::Describe) {
            true => "whether this login may make them is not told (Create on the cluster, and Describe to see it)",
            false => "this login may make no topics (Create on the cluster)",
        };
        if !missing.is_empty() {
            findings.push(Finding {
                what: "kafka's rights".into(),
                ok: false,
                says: format!("{} not there: {why}", absent.join(", ")),
                help: format!("make them by hand, or type: {}", line(&missing, "--cluster", settings)),
            });
        }
    }
    if findings.is_empty() {
        let says = match is_untold {
            true => "the cluster does not say what this login may do".to_owned(),
            false => format!("{} topics and {} groups: all that the file needs is allowed", needs.topics.len(), needs.groups.len()),
        };
        findings.push(Finding { what: "kafka's rights".into(), ok: true, says, help: String::new() });
    }
    Ok(findings)
}

fn finding(thing: String, missing: &[Operation], resource: &str, settings: &Settings) -> Option<Finding> {
    let words: Vec<&str> = missing.iter().map(|operation| operation.word()).collect();
    let says = format!("{thing}: {} {} missing", words.join(", "), if words.len() == 1 { "is" } else { "are" });
    let help = format!("type: {}", line(missing, resource, settings));
    (!words.is_empty()).then(|| Finding { what: "kafka's rights".into(), ok: false, says, help })
}

/// What gives these rights, as Kafka's own tool takes it.
fn line(operations: &[Operation], resource: &str, settings: &Settings) -> String {
    let operations: Vec<String> = operations.iter().map(|operation| format!("--operation {}", operation.word())).collect();
    let who = settings.properties.get("sasl.username").map_or("NAME", String::as_str);
    let (brokers, user) = (quoted(&settings.brokers), quoted(&format!("User:{who}")));
    format!("kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal {user} {} {resource}", operations.join(" "))
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:,/".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_what_kafkas_tool_takes() {
        let settings = Settings::new("a:9092,b:9092").with("sasl.username", "the plant");
        let found = finding("topic t".into(), &[Operation::Write, Operation::Describe], "--topic t", &settings).unwrap();
        assert_eq!(found.says, "topic t: Write, Describe are missing");
        let expected = "type: kafka-acls.sh --bootstrap-server a:9092,b:9092 --add --allow-principal 'User:the plant' --operation Write --operation Describe --topic t";
        assert_eq!(found.help, expected);
        assert!(finding("topic t".into(), &[], "--topic t", &settings).is_none());
    }

    #[test]
    fn a_template_is_no_topic_and_describe_goes_with_everything() {
        let mut needs = Needs::default();
        needs.topic("a-{1}", &[Operation::Write]);
        needs.topic("plant-*", &[Operation::Read]);
        needs.topic("t", &[Operation::Write]);
        needs.topic("t", &[Operation::Read]);
        assert_eq!(needs.topics.len(), 1);
        assert_eq!(needs.topics["t"], [Operation::Read, Operation::Write, Operation::Describe].into());
    }
}
