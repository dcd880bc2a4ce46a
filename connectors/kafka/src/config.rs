//! The keys of `type: kafka`, and what they compile to.

use crate::compare::Comparison;
use crate::fields::{FieldRules, HashKey, Keys, Rules};
use crate::groups::Copying;
use crate::leaving::Guard;
use crate::names::Names;
use crate::sink::{Carrying, Replication};
use crate::target::Making;
use crate::throttle::{Limit, Limits};
use crate::windows::{Rule, WindowRule};
use indexmap::IndexMap;
use millrace_config::{Period, Problems, Secret, Severity, Spanned};
use millrace_contract::{Compiled, Context, Guarantee, Model, Plan, Plugin, Role, Sink, is_meant};
use millrace_kafka::{Settings, check_properties};
use millrace_kit::Tls;
use millrace_registry::{ClientTls, RegistryLogin};
use millrace_schemas::contract::Kind as Language;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Copies topics of the factory's Kafka to another cluster: keys, values, headers, timestamps and partitions as they are.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// The target: `host:port,host:port`.
    pub brokers: Spanned<String>,
    /// librdkafka's own properties towards the target: logins, TLS, `compression.type`.
    #[serde(default)]
    pub properties: IndexMap<String, Spanned<String>>,
    /// The topic's name at the target, from `{topic}`, `{site}` and `{origin}`: `{site}.{topic}` makes `acme.detroit.telemetry`. Left out, topics
    /// keep their names.
    #[serde(default)]
    pub rename: Option<Spanned<String>>,
    /// `exactly_once`: records and their position are committed in one transaction of the target, and a consumer there that reads
    /// `read_committed` sees each once. Otherwise the tail may be repeated after a crash.
    #[serde(default)]
    pub delivery: Delivery,
    /// How often what was sent is committed; with `exactly_once`, how long a transaction is.
    #[serde(default = "commit_every")]
    pub commit_every: Spanned<Period>,
    /// What the factory's cluster is called at the target: in `{origin}`, in the positions and in the header `millrace.origin`. Left out: the
    /// site, with `.` for `/`.
    #[serde(default)]
    pub origin: Option<Spanned<String>>,
    /// What the target is called by those who replicate from it to here. Topics that begin with `TARGET.` and records whose header
    /// `millrace.origin` names it are not sent back.
    #[serde(default)]
    pub target: Option<Spanned<String>>,
    /// Whether each record gets the header `millrace.origin` with the cluster, topic, partition and offset it comes from. Left out: yes where
    /// topics keep their names, for there nothing else tells a copy from an original.
    #[serde(default)]
    pub provenance: Option<bool>,
    /// Whether topics that the target lacks are made, and partitions added where the origin has more.
    #[serde(default = "yes")]
    pub create: bool,
    /// The replication factor of topics made at the target; its own default otherwise.
    #[serde(default)]
    pub replication: Option<u16>,
    /// Settings of topics made at the target, as Kafka names them, over those of the origin: `retention.ms`.
    #[serde(default)]
    pub topic_properties: IndexMap<String, Spanned<String>>,
    /// What happens when a topic at home was deleted and made again, so that the position at the target means nothing any more.
    #[serde(default)]
    pub on_recreated: OnRecreated,
    /// Limits towards the target.
    #[serde(default)]
    pub limit: Limit,
    /// Consumer groups whose offsets are translated to the target.
    #[serde(default)]
    pub groups: Groups,
    /// Topics that never leave, by name or pattern, whatever `topics` says; nor do their dead letters.
    #[serde(default)]
    pub stay_home: Vec<Spanned<String>>,
    /// What of each topic's records leaves, by the topic's name or a pattern, for values in JSON, Avro and Protobuf. A value that cannot be read so stays at
    /// home, as a dead letter; so do the dead letters of these topics.
    #[serde(default)]
    pub fields: IndexMap<String, Spanned<FieldRules>>,
    /// Topics of samples that leave in windows of time, by name or pattern: instead of its samples, a record per tag and window, in JSON, with
    /// what `keep` names. For lines that cannot carry all of them.
    #[serde(default)]
    pub windows: IndexMap<String, Spanned<WindowRule>>,
    /// The keys of `hash` and `pseudonym`, in the order in which they hold.
    #[serde(default)]
    pub hash_keys: Vec<HashKey>,
    /// The target's schema registry: schemas are carried there, and values get the ids that they have there. Left out, values keep the factory's.
    #[serde(default)]
    pub registry: Option<Spanned<TargetRegistry>>,
}

/// Offsets of consumer groups.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Groups {
    /// Groups by name or pattern: `[reports, "line-*"]`. A group that has members at the target is left alone, and none moves backwards.
    pub copy: Vec<Spanned<String>>,
    /// How often.
    pub every: Spanned<Period>,
}

impl Default for Groups {
    fn default() -> Self {
        Self { copy: Vec::new(), every: Spanned::from(Period::from_secs(30)) }
    }
}

/// A schema registry at the target.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetRegistry {
    /// `http(s)://host:port`, Confluent-compatible; several addresses of one registry with commas.
    pub url: Spanned<String>,
    /// The user's name, with `password`.
    #[serde(default)]
    pub user: Option<String>,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A bearer token instead, by reference.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Certificates, for `https://`.
    #[serde(default)]
    pub tls: Tls,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    #[default]
    AtLeastOnce,
    ExactlyOnce,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRecreated {
    /// The sink is Blocked until a person has decided.
    #[default]
    Stop,
    /// The new topic is copied from its start.
    Restart,
}

fn commit_every() -> Spanned<Period> {
    Spanned::from(Period::from_secs(1))
}

fn yes() -> bool {
    true
}

/// Each round asks both clusters.
const LEAST_EVERY: Duration = Duration::from_secs(1);
/// Brokers end transactions after 15 minutes; a short one also holds up fewer readers.
const LONGEST_COMMIT: Duration = Duration::from_secs(60);

/// The plugin `kafka`, as a sink.
pub struct KafkaSink;

impl Plugin for KafkaSink {
    const TYPE: &'static str = "kafka";
    const ROLE: Role = Role::Sink;
    type Config = KafkaSinkConfig;

    fn compile(config: KafkaSinkConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let before = problems.iter().count();
        let replication = check(&config, context, problems);
        if problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        Some(Box::new(CompiledSink { replication: Arc::new(replication?), model: Model::default(), topics: context.topics.clone() }))
    }
}

fn plain(properties: &IndexMap<String, Spanned<String>>) -> BTreeMap<String, String> {
    properties.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect()
}

fn check(config: &KafkaSinkConfig, context: &Context, problems: &mut Problems) -> Option<Replication> {
    for problem in check_properties(&plain(&config.properties)) {
        let place = config.properties.get(&problem.name).map_or(config.brokers.place, |value| value.place);
        problems.error(place, problem.message);
    }
    if config.brokers.trim().is_empty() {
        problems.error(config.brokers.place, "`brokers` names no broker of the target");
    } else if config.brokers.value == context.cluster.brokers {
        problems
            .error(config.brokers.place, format!("`brokers: {}` is the factory's own cluster", config.brokers.value))
            .help("name the brokers of the cluster to copy to");
    }
    if config.commit_every.0.is_zero() || config.commit_every.0 > LONGEST_COMMIT {
        problems
            .error(config.commit_every.place, format!("`commit_every: {}` must be more than 0 and at most 1m", config.commit_every.value));
    }
    if config.groups.every.0 < LEAST_EVERY {
        problems.error(config.groups.every.place, format!("`every: {}` is less than 1s", config.groups.every.value));
    }
    let limits = Limits::compile(&config.limit, &context.topics, problems);
    let alias = |alias: &Option<Spanned<String>>, problems: &mut Problems| {
        let alias = alias.as_ref()?;
        if alias.is_empty() || !alias.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
            problems.error(alias.place, format!("`{}` is not a cluster's name: letters, digits, `.`, `-` and `_`", alias.value));
        }
        Some(alias.value.clone())
    };
    let (origin, target) = (alias(&config.origin, problems), alias(&config.target, problems));
    let rename = config.rename.as_ref().map(|rename| (rename.as_str(), rename.place));
    let names = Names::parse(rename, &context.site, origin, target, problems)?;
    let provenance = config.provenance.unwrap_or(names.keeps());
    if names.keeps() && !provenance {
        let place = config.rename.as_ref().map_or(context.place, |rename| rename.place);
        problems
            .warn(
                place,
                "topics keep their names and records have no header `millrace.origin`: a copy back from the target would go round forever",
            )
            .help("leave `provenance` out, or add `rename: \"{site}.{topic}\"`");
    }
    for topic in context.topics.iter().filter(|topic| !topic.contains('*') && names.stays(topic)) {
        problems
            .error(context.place, format!("topic {topic} means something only in its own cluster and is never copied"))
            .help("take it out of `topics`");
    }
    for stays in &config.stay_home {
        if let Some(topic) = context.topics.iter().find(|topic| !topic.contains('*') && is_meant(&stays.value, topic)) {
            problems
                .error(stays.place, format!("topic {topic} stays at home by `stay_home: {}`, and `topics` names it", stays.value))
                .help("take it out of one of them")
                .also(context.place, "the sink");
        }
    }
    let names = names.with_home(config.stay_home.iter().map(|topic| topic.value.clone()).collect());
    let guard = guard(config, context, problems);
    let windows: Vec<Rule> = config.windows.iter().map(|(topic, rule)| Rule::compile(topic, rule, &context.topics, problems)).collect();
    for (topic, rule) in &config.windows {
        if config.fields.keys().any(|other| other == topic || is_meant(other, topic) || is_meant(topic, other)) {
            problems
                .error(
                    rule.place,
                    format!("topic {topic} has rules in `windows` and in `fields`, and what leaves in windows has no such fields"),
                )
                .help("take it out of one of them");
        }
    }
    let mut home = Settings::new(context.cluster.brokers.clone());
    home.client_id = format!("millrace-{}-{}", context.site.replace('/', "-"), context.name);
    home.properties = context.cluster.properties.clone();
    let mut there = Settings::new(config.brokers.value.clone());
    there.client_id = home.client_id.clone();
    there.properties = plain(&config.properties);
    Some(Replication {
        carrying: Carrying {
            name: format!("{}/{}", context.site, context.name),
            exactly_once: config.delivery == Delivery::ExactlyOnce,
            provenance,
            restart_recreated: config.on_recreated == OnRecreated::Restart,
            limits,
            windows,
            groups: (!config.groups.copy.is_empty()).then(|| Copying {
                groups: config.groups.copy.iter().map(|group| group.value.clone()).collect(),
                every: config.groups.every.0,
            }),
            commit_every: config.commit_every.0,
        },
        names,
        runtime: context.cluster.runtime.clone(),
        home,
        target: there,
        making: Making {
            create: config.create,
            replication: config.replication.map(i32::from),
            properties: plain(&config.topic_properties),
        },
        suspects: Mutex::default(),
        by_record_until: Mutex::default(),
        guard: Arc::new(guard),
    })
}

/// What of the records leaves, and with which ids.
fn guard(config: &KafkaSinkConfig, context: &Context, problems: &mut Problems) -> Guard {
    let mut guard = Guard { keys: Keys::compile(&config.hash_keys, problems), declared: context.declared.clone(), ..Guard::default() };
    for (topic, rules) in &config.fields {
        let compiled = Rules::compile(topic, &rules.value, problems);
        if compiled.needs_key() && guard.keys.is_empty() {
            problems
                .error(rules.place, format!("values of topic {topic} are hashed, and there is no key to hash with"))
                .help("add `hash_keys: [{id: \"1\", secret: \"${file:/run/secrets/hash-key}\"}]`");
        }
        if !context.topics.iter().any(|read| read.contains('*') || is_meant(topic, read)) {
            problems
                .error(rules.place, format!("`fields` has rules for topic {topic}, which this sink does not read"))
                .help("correct the name: the rules of a name that is mistyped protect nothing");
        }
        for (name, schema) in context.declared.iter().filter(|(name, _)| is_meant(topic, name)) {
            let is_read = context.topics.iter().any(|read| is_meant(read, name));
            match schema.kind {
                _ if !is_read => continue,
                Language::Avro | Language::Protobuf if config.registry.is_none() => {
                    let language = if schema.kind == Language::Avro { "Avro" } else { "Protobuf" };
                    problems
                        .error(rules.place, format!("topic {name} is in {language}, and what `fields` lets out has a schema of its own"))
                        .help("name the target's registry: `registry: {url: \"https://registry.cloud\"}`");
                }
                _ => {}
            }
            compiled.hold_against(name, schema, problems);
        }
        guard.rules.push(compiled);
    }
    let settings = |urls: &str, login: Option<RegistryLogin>, tls: ClientTls| {
        let mut settings = millrace_registry::Settings::new(urls);
        (settings.login, settings.tls) = (login, tls);
        settings
    };
    let login = |user: Option<(String, Secret)>, token: Option<Secret>| match (user, token) {
        (Some((user, password)), _) => Some(RegistryLogin::Basic { user, password }),
        (None, token) => token.map(RegistryLogin::Token),
    };
    if let Some(home) = context.cluster.registry.clone() {
        let tls = ClientTls { ca: home.ca, cert: home.cert, key: home.key, server_name: None };
        guard.home = Some(settings(&home.urls, login(home.user, home.token), tls));
    }
    if let Some(target) = &config.registry {
        let TargetRegistry { url, user, password, token, tls } = &target.value;
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            problems.error(url.place, format!("`{}` is no address of a schema registry", url.value)).help("write `https://host:port`");
        }
        if !matches!((user, password, token), (None, None, _) | (Some(_), Some(_), None)) {
            problems.error(target.place, "a login of a registry is a user and a password, or a token");
        }
        tls.check(target.place, problems);
        let tls = ClientTls { ca: tls.ca.clone(), cert: tls.cert.clone(), key: tls.key.clone(), server_name: tls.server_name.clone() };
        guard.target = Some(settings(url, login(user.clone().zip(password.clone()), token.clone()), tls));
    }
    guard
}

/// A sink's copy, looked at from outside: what `millrace replicate` needs.
pub struct Replicator {
    replication: Replication,
    topics: Vec<String>,
}

impl Replicator {
    /// `None`: `problems` says why.
    pub fn new(config: &KafkaSinkConfig, context: &Context, problems: &mut Problems) -> Option<Self> {
        let replication = check(config, context, problems).filter(|_| !problems.has_errors())?;
        Some(Self { replication, topics: context.topics.clone() })
    }

    pub fn compare(&self) -> Comparison<'_> {
        Comparison::new(&self.replication, &self.topics)
    }

    /// What this cluster is called at the target, and the target's brokers.
    pub fn ends(&self) -> (&str, &str) {
        (&self.replication.names.origin, &self.replication.target.brokers)
    }
}

struct CompiledSink {
    replication: Arc<Replication>,
    model: Model,
    topics: Vec<String>,
}

impl Compiled for CompiledSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(crate::sink::Instance::new(self.replication.clone())))
    }

    fn guarantee(&self) -> Guarantee {
        if self.replication.carrying.exactly_once {
            Guarantee::ExactlyOnce("records and their position are committed in one transaction of the target".into())
        } else {
            Guarantee::AtLeastOnce("the position follows the target's acknowledgement; after a crash the tail is sent again".into())
        }
    }

    fn plan(&self) -> Plan {
        let replication = &self.replication;
        let mut lines: Vec<String> = self
            .topics
            .iter()
            .map(|topic| match topic.contains('*') {
                true => format!("copies every topic like {topic}, to names like {}", replication.names.at_target(topic)),
                false => format!("copies topic {topic} to {}", replication.names.at_target(topic)),
            })
            .collect();
        lines.push(format!("keeps its positions in topic {} at the target", crate::names::POSITIONS));
        if replication.carrying.exactly_once {
            lines.push(format!("commits transactions of {:?} as {}", replication.carrying.commit_every, replication.transactional_id()));
        }
        lines.push(match replication.by_record() {
            None => "forwards batches whole, as they are compressed".into(),
            Some(why) => format!("copies record by record: {why}"),
        });
        lines.extend(replication.carrying.limits.plan());
        for stays in &replication.names.stay_home {
            lines.push(format!("leaves topic {stays} at home"));
        }
        for rules in &replication.guard.rules {
            lines.extend(rules.plan());
        }
        lines.extend(replication.carrying.windows.iter().map(Rule::plan));
        match &replication.guard.target {
            Some(registry) => {
                lines.push(format!("carries schemas to the registry at {}, and gives values their ids there", registry.urls.join(", ")))
            }
            None => lines.push("does not copy schemas of the registry: values keep the factory's ids".into()),
        }
        let rest = match &replication.carrying.groups {
            Some(Copying { groups, every }) => {
                lines.push(format!(
                    "translates offsets of consumer groups {} every {every:?}, and writes {}.checkpoints.internal",
                    groups.join(", "),
                    replication.names.origin
                ));
                "does not copy ACLs or settings of brokers"
            }
            None => "does not copy ACLs, consumer groups' offsets, or settings of brokers",
        };
        lines.push(rest.into());
        Plan { endpoint: replication.target.brokers.clone(), lines, rate: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Place;
    use millrace_schemas::contract::Schema;
    use millrace_testkit::yaml;

    fn compile(text: &str, topics: &[&str]) -> Result<Box<dyn Compiled>, String> {
        let mut context = yaml::context("cloud", topics);
        context.cluster.brokers = "home:9092".into();
        let order = r#"{"type": "record", "name": "Order", "fields": [{"name": "ID", "type": "string"},
            {"name": "operator", "type": ["null", {"type": "record", "name": "Person", "fields": [{"name": "name", "type": "string"}]}]}]}"#;
        let kind = millrace_schemas::contract::Kind::Avro;
        let schema = Schema { kind, text: order.into(), name: "Order".into(), references: Vec::new(), indexes: [].into() };
        context.declared = vec![("orders".into(), Arc::new(schema))];
        yaml::compile::<KafkaSink>(text, &context)
    }

    #[test]
    fn a_plan_says_what_is_copied_where_and_what_is_not() {
        let compiled = compile(
            "brokers: cloud:9092\nrename: \"{site}.{topic}\"\ndelivery: exactly_once\nlimit: {bandwidth: 2MiB/s}\n",
            &["telemetry", "machine-*"],
        )
        .unwrap();
        let plan = compiled.plan();
        assert_eq!(plan.endpoint, "cloud:9092");
        let text = plan.lines.join("\n");
        for part in ["telemetry to test.site.telemetry", "like test.site.machine-*", "2MiB/s", "millrace.replication", "does not copy ACLs"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(matches!(compiled.guarantee(), Guarantee::ExactlyOnce(_)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for (text, topics, expected) in [
            ("brokers: home:9092\n", &["a"][..], "the factory's own cluster"),
            ("brokers: c:1\nrename: \"x.{topics}\"\n", &["a"], "there are `{topic}`, `{site}`, `{origin}`"),
            ("brokers: c:1\nrename: all\n", &["a"], "the same name"),
            ("brokers: c:1\n", &["__consumer_offsets"], "never copied"),
            ("brokers: c:1\nlimit: {bandwidth: 1KiB/s}\n", &["a"], "less than 32KiB/s"),
            ("brokers: c:1\ncommit_every: 5m\n", &["a"], "at most 1m"),
            ("brokers: c:1\nproperties: {acks: \"1\"}\n", &["a"], "is always `all`"),
            ("brokers: c:1\ntarget: \"the cloud\"\n", &["a"], "is not a cluster's name"),
            ("brokers: c:1\nrenam: x\n", &["a"], "did you mean `rename`"),
            ("brokers: c:1\nstay_home: [a]\n", &["a", "b"], "`topics` names it"),
            ("brokers: c:1\nfields: {b: {drop: [x]}}\n", &["a"], "which this sink does not read"),
            ("brokers: c:1\nfields: {a: {hash: [x]}}\n", &["a"], "no key to hash with"),
            ("brokers: c:1\nfields: {a: {drop: [x], mask: [x]}}\n", &["a"], "contradict each other"),
            ("brokers: c:1\nfields: {orders: {mask: [operater]}}\nregistry: {url: 'http://r:1'}\n", &["orders"], "has no field operater"),
            ("brokers: c:1\nfields: {orders: {mask: [ID]}}\n", &["orders"], "name the target's registry"),
            ("brokers: c:1\nregistry: {url: 'r:1'}\n", &["a"], "no address of a schema registry"),
            ("brokers: c:1\nregistry: {url: 'http://r:1', user: u}\n", &["a"], "a user and a password, or a token"),
            ("brokers: c:1\nwindows: {b: {every: 1m, keep: [min]}}\n", &["a"], "which this sink does not read"),
            ("brokers: c:1\nwindows: {a: {every: 10ms, keep: []}}\n", &["a"], "at least 1s"),
            ("brokers: c:1\nwindows: {a: {every: 1m, keep: [min]}}\nfields: {a: {drop: [x]}}\n", &["a"], "in `windows` and in `fields`"),
            ("brokers: c:1\nlimit: {first: [alarms]}\n", &["a"], "`first` names topic alarms"),
            ("brokers: c:1\nlimit: {schedule: [{from: 25:00, until: '06:00', bandwidth: 1MiB/s}]}\n", &["a"], "is no time of day"),
        ] {
            let problems = compile(text, topics).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(problems.contains(expected), "{expected} is not in\n{problems}");
        }
    }

    #[test]
    fn a_plan_says_what_leaves_and_what_does_not() {
        let text = "brokers: c:1\nstay_home: [payroll*]\nhash_keys: [{id: a, secret: 0123456789abcdef}]\n\
                    fields: {orders: {allow: [ID], hash: [/operator/name], key: pseudonym}}\nregistry: {url: 'https://r.cloud'}\n\
                    limit: {bandwidth: 1MiB/s, schedule: [{from: '22:00', until: '06:00', bandwidth: 8MiB/s}], first: [orders]}\n";
        let plan = compile(text, &["*"]).unwrap().plan().lines.join("\n");
        for part in [
            "leaves topic payroll* at home",
            "of topic orders lets out: ID as they are; operator/name hashed; no others",
            "keys of topic orders leave as pseudonyms",
            "carries schemas to the registry at https://r.cloud",
            "8MiB/s from 22:00 to 06:00",
            "sends orders before all others",
        ] {
            assert!(plan.contains(part), "{part} is not in\n{plan}");
        }
        assert!(!plan.contains("0123456789abcdef"), "{plan}");
    }

    #[test]
    fn a_plan_says_whether_batches_are_forwarded_whole_and_why_not() {
        let plan = |more: &str| compile(&format!("brokers: c:1\n{more}"), &["a"]).unwrap().plan().lines.join("\n");
        assert!(plan("rename: \"x.{topic}\"\nlimit: {first: [a]}\n").contains("forwards batches whole"));
        for (more, why) in [
            ("", "millrace.origin"),
            ("target: cloud\n", "`target`"),
            ("fields: {a: {drop: [x]}}\n", "`fields`"),
            ("stay_home: [b]\n", "stays at home"),
            ("registry: {url: 'http://r:1'}\n", "registry"),
            ("windows: {a: {every: 1m, keep: [min]}}\n", "`windows`"),
            ("limit: {bandwidth: 1MiB/s}\n", "`bandwidth`"),
            ("properties: {compression.type: zstd}\n", "`compression.type: zstd`"),
            ("properties: {security.protocol: SSL, ssl.key.password: hush}\n", "ssl.key.password"),
        ] {
            let rename = if more.is_empty() { "" } else { "rename: \"x.{topic}\"\n" };
            let plan = plan(&format!("{rename}{more}"));
            assert!(plan.contains("copies record by record: ") && plan.contains(why) && !plan.contains("hush"), "{why} is not in\n{plan}");
        }
    }

    #[test]
    fn identical_names_carry_the_header_unless_forbidden() {
        let place = Place::default();
        let names = Names::parse(None, "a/b", None, None, &mut Problems::new()).unwrap();
        assert!(names.keeps());
        let renamed = Names::parse(Some(("{origin}.{topic}", place)), "a/b", Some("west".into()), None, &mut Problems::new()).unwrap();
        assert_eq!(renamed.at_target("t"), "west.t");
    }
}
