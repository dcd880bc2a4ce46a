//! From paths on the command line to a factory.

use crate::factory::environment::Load;
use crate::factory::expand::expand;
use crate::factory::files::{self, same_name};
use crate::factory::limits::log_size;
use crate::factory::settings;
use crate::factory::top::{DATA_DIR, Factory, File};
use crate::factory::{COMMANDS, Connector, RegistryLogin, Schemas, Shape, Topic};
use crate::tree::node::{Entry, Kind, Node, Spanned};
use crate::tree::place::Place;
use crate::tree::problem::Problems;
use crate::tree::{name, suggest};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::path::PathBuf;

/// Loads one factory from files and folders.
///
/// Every problem found is in `problems`. Where a section is wrong its default stands in, so that the connectors' own problems can be found in the
/// same go: look at `problems.has_errors()` before anything is run. `None` if a file can't be read, or is not YAML.
pub fn load(paths: &[PathBuf], how: &Load, problems: &mut Problems) -> Option<Factory> {
    problems.strict = true;
    if paths.is_empty() {
        problems.error(Place::NONE, "no file is given").help("name one: `-c factory.yaml`, or a folder");
        return None;
    }
    let merged = files::read_all(paths, how, problems)?;
    let expanded = expand(merged, how, problems);
    Some(factory(expanded, how, problems))
}

/// What may be written to devices is said by the file itself: not by the environment, nor by another file that it takes a text from.
fn writes_stand_in_the_file(head: &Node, problems: &mut Problems) {
    if let Some(node) = settings::at(head, "floor.writes")
        && let Some(reference) = node.text().and_then(|text| text.reference())
    {
        problems
            .error(node.place, format!("`floor.writes` is taken from `{reference}`: writing to devices is allowed by this file alone"))
            .help("write `writes: allowed` or `writes: forbidden`");
    }
}

fn factory(mut expanded: Node, how: &Load, problems: &mut Problems) -> Factory {
    let mut taken = |key: &str| match &mut expanded.kind {
        Kind::Map(entries) => entries.iter().position(|entry| *entry.key == *key).map(|at| entries.remove(at).value),
        _ => None,
    };
    let (sources, sinks) = (taken("sources"), taken("sinks"));
    let mut head = expanded;
    brokers_in_a_list(&mut head, problems);
    unknown_keys(&head, problems);
    writes_stand_in_the_file(&head, problems);
    let settled = settings::layer(&head, how, problems);
    let sources = connectors("source", sources, problems);
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let sinks = connectors("sink", sinks, problems);
    for sink in sinks.iter().filter(|sink| sink.type_name.value == COMMANDS) {
        let source = sink.node.get("source").unwrap_or(&sink.node);
        match source.as_str() {
            Some(name) if names.contains(&name) => {}
            Some(name) => {
                problems.error(source.place, format!("there is no source `{name}`")).help(suggest::help(
                    name,
                    "sources",
                    names.iter().copied(),
                ));
            }
            None => {
                problems.error(source.place, format!("expected the name of a source, found {}", source.describe()));
            }
        }
    }
    let factory = Factory {
        site: site(&settled, problems),
        levels: levels(&settled, problems),
        data_dir: section::<Option<PathBuf>>(&settled, "data_dir", problems).unwrap_or_else(|| DATA_DIR.into()),
        kafka: section(&settled, "kafka", problems),
        schemas: section(&settled, "schemas", problems),
        http: section(&settled, "http", problems),
        runtime: section(&settled, "runtime", problems),
        messages: section(&settled, "messages", problems),
        alarms: section(&settled, "alarms", problems),
        otlp: section(&settled, "otlp", problems),
        opcua_server: section(&settled, "opcua_server", problems),
        log: section(&settled, "log", problems),
        clock: section(&settled, "clock", problems),
        floor: section(&settled, "floor", problems),
        topics: topics(&settled, problems),
        defaults: head.get("defaults").cloned(),
        sources,
        sinks,
        head,
        files: how.files.clone(),
    };
    addresses(&factory, problems);
    factory.runtime.check(factory.head.get("runtime"), problems);
    listeners(&factory, problems);
    log_size(factory.log.size, factory.head.get("log").and_then(|log| log.get("size")), problems);
    written_out_passwords(&factory, problems);
    if factory.sources.is_empty() && factory.sinks.is_empty() && !problems.has_errors() {
        problems.warn(factory.head.place, "the factory has neither sources nor sinks").help("add one under `sources`; see config/examples");
    }
    factory
}

/// One key of the top level; its default after a problem, or where the file says nothing.
fn section<T: DeserializeOwned + Default>(head: &Node, key: &str, problems: &mut Problems) -> T {
    match head.get(key) {
        Some(node) if !node.is_null() => node.parse(problems).unwrap_or_default(),
        _ => T::default(),
    }
}

fn unknown_keys(head: &Node, problems: &mut Problems) {
    for entry in head.entries().iter().filter(|entry| !File::KEYS.contains(&&*entry.key)) {
        problems.error(entry.value.place.key(), format!("unknown key `{}`", entry.key)).help(suggest::help(
            &entry.key,
            "keys here",
            File::KEYS.iter().copied(),
        ));
    }
}

fn site(head: &Node, problems: &mut Problems) -> Spanned<String> {
    let Some(node) = head.get("site") else {
        problems.error(head.place, "the key `site` is missing").help("add `site: enterprise/site`: the first levels of every tag's path");
        return Spanned::default();
    };
    let site: Spanned<String> = node.parse(problems).unwrap_or_default();
    if !site.is_empty()
        && let Err(message) = name::site(&site)
    {
        problems.refused(site.place, &message);
    }
    site
}

fn levels(head: &Node, problems: &mut Problems) -> Vec<String> {
    let levels: Vec<Spanned<String>> = section(head, "levels", problems);
    let mut seen: HashSet<&str> = HashSet::new();
    for level in &levels {
        if !seen.insert(level) {
            problems.error(level.place, format!("the level `{}` is here a second time", level.value));
        }
    }
    levels.iter().map(|level| level.value.clone()).collect()
}

fn topics(head: &Node, problems: &mut Problems) -> IndexMap<String, Spanned<Topic>> {
    let mut topics: IndexMap<String, Spanned<Topic>> = IndexMap::new();
    let Some(node) = head.get("topics") else { return topics };
    if !matches!(node.kind, Kind::Map(_) | Kind::Null) {
        problems.error(node.place, format!("expected topics by name, found {}", node.describe()));
    }
    for Entry { key, value } in node.entries() {
        // One that is wrong is declared all the same: nobody is told that it is missing.
        let absent = Spanned { value: Topic::default(), place: value.place };
        let mut topic = match value.is_null() {
            true => absent,
            false => value.parse::<Spanned<Topic>>(problems).unwrap_or(absent),
        };
        let name = match name::topic(key) {
            Ok(name) => name,
            Err(message) => {
                problems.refused(value.place.key(), &message);
                continue;
            }
        };
        if let Some(dead) = &mut topic.value.dead_letter {
            match name::topic(dead) {
                Ok(name) => dead.value = name,
                Err(message) => problems.refused(dead.place, &message),
            }
        }
        if topic.window.is_some() && topic.shape != Shape::Asset {
            problems.error(value.get("window").map_or(value.place, |window| window.place.key()), "`window` is for `shape: asset` only");
        }
        if topic.window.is_none() && topic.shape == Shape::Asset {
            let shape = value.get("shape").map_or(value.place, |shape| shape.place);
            problems.error(shape, "`shape: asset` needs a `window`").help("add how long one record collects: `window: 1s`");
        }
        if topic.partitions == Some(0) {
            problems.error(value.get("partitions").map_or(value.place, |count| count.place), "a topic has at least one partition");
        }
        if topic.replication == Some(0) {
            problems.error(value.get("replication").map_or(value.place, |factor| factor.place), "a topic has at least one replica");
        }
        match topics.get(&name) {
            Some(first) => same_name("topic", &name, value.place.key(), first.place.key(), problems),
            None => _ = topics.insert(name, topic),
        }
    }
    topics
}

fn connectors(what: &str, node: Option<Node>, problems: &mut Problems) -> Vec<Connector> {
    let Some(Node { kind: Kind::Map(entries), .. }) = node else { return Vec::new() };
    let mut connectors = Vec::with_capacity(entries.len());
    for Entry { key, value: node } in entries {
        let place = node.place.key();
        if let Err(message) = name::connector(what, &key) {
            problems.refused(place, &message);
        }
        let type_name = match (node.get("type"), node.get("source")) {
            (Some(type_name), None) => type_name.parse::<Spanned<String>>(problems),
            (None, Some(source)) if what == "sink" => Some(Spanned { value: COMMANDS.to_owned(), place: source.place.key() }),
            (Some(type_name), Some(source)) if what == "sink" => {
                problems
                    .error(source.place.key(), "a sink has a `type`, or the `source` it sends commands through, not both")
                    .help("remove one")
                    .also(type_name.place.key(), "the type");
                None
            }
            (Some(type_name), Some(_)) => type_name.parse::<Spanned<String>>(problems),
            (None, _) => {
                // A template that is not there may have given it.
                if node.get("use").is_none() {
                    problems.error(place, format!("the {what} `{key}` has no `type`")).help(match what {
                        "sink" => "add `type: ..`, or `source: ..` for commands",
                        _ => "add `type: ..`, or `use: ..` for a template that has one",
                    });
                }
                None
            }
        };
        let enabled = match node.get("enabled") {
            Some(enabled) => enabled.parse(problems).unwrap_or(true),
            None => true,
        };
        if let Some(type_name) = type_name {
            connectors.push(Connector { name: key.to_string(), place, type_name, enabled, node });
        }
    }
    connectors
}

/// Below this a log holds a few batches at best: a unit was forgotten.
/// `brokers: [a:9092, b:9092]`, as other programs have it.
fn brokers_in_a_list(head: &mut Node, problems: &mut Problems) {
    let Kind::Map(entries) = &mut head.kind else { return };
    let Some(kafka) = entries.iter_mut().find(|entry| *entry.key == *"kafka") else { return };
    let Kind::Map(entries) = &mut kafka.value.kind else { return };
    let Some(brokers) = entries.iter().position(|entry| *entry.key == *"brokers" && matches!(entry.value.kind, Kind::Seq(_))) else {
        return;
    };
    let brokers = entries.remove(brokers).value;
    let listed: Vec<&str> = brokers.items().iter().filter_map(Node::as_str).collect();
    problems
        .error(brokers.place, "the brokers are one text, not a list")
        .help(format!("write `brokers: \"{}\"`", if listed.is_empty() { "kafka-1:9092,kafka-2:9092".into() } else { listed.join(",") }));
}

/// Two listeners of one process can't have one port.
fn listeners(factory: &Factory, problems: &mut Problems) {
    let place = |keys: &[&str]| keys.iter().try_fold(&factory.head, |node, key| node.get(key)).map(|node| node.place);
    let mut listeners = vec![("http.listen", factory.http.listen, place(&["http", "listen"]))];
    if factory.schemas.registry.value == "embedded" {
        listeners.push(("schemas.listen", factory.schemas.listen, place(&["schemas", "listen"])));
    }
    if factory.kafka.brokers.value == "embedded" {
        listeners.push(("kafka.embedded.listen", factory.kafka.embedded.listen, place(&["kafka", "embedded", "listen"])));
    }
    if let Some(listen) = factory.opcua_server.listen {
        listeners.push(("opcua_server.listen", listen, place(&["opcua_server", "listen"])));
    }
    for (index, (name, listen, at)) in listeners.iter().enumerate() {
        for (other_name, other, other_at) in &listeners[..index] {
            let (a, b) = (listen.0.ip(), other.0.ip());
            let overlap = a == b || a.is_unspecified() || b.is_unspecified();
            if listen.0.port() == 0 || listen.0.port() != other.0.port() || !overlap {
                continue;
            }
            let (blamed, also) = if at.is_some() { (*at, *other_at) } else { (*other_at, *at) };
            let problem = problems.error(blamed.unwrap_or_default(), format!("{other_name} and {name} both are {listen}"));
            problem.help("give one of them another port");
            if let Some(also) = also {
                problem.also(also, "the other one");
            }
        }
    }
}

fn addresses(factory: &Factory, problems: &mut Problems) {
    let brokers = &factory.kafka.brokers;
    if brokers.value != "embedded" {
        for broker in brokers.split(',') {
            let port = broker.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                problems
                    .error(brokers.place, format!("`{}` is not a broker's address", broker.trim()))
                    .help("write `host:port`, several with commas: `kafka-1:9092,kafka-2:9092`");
            }
        }
    }
    let embedded = &factory.kafka.embedded;
    let is_reachable = brokers.value == "embedded" && !embedded.listen.0.ip().is_loopback();
    if is_reachable && (embedded.tls.is_none() || embedded.users.is_empty()) {
        problems
            .error(brokers.place, format!("the embedded broker would be open to everyone who reaches {}", embedded.listen.0))
            .help("give it `tls: {certificate: .., key: ..}` and `users: {name: ${file:..}}` under `kafka.embedded`, or let it listen on 127.0.0.1");
    }
    let server = &factory.opcua_server;
    if let Some(listen) = server.listen
        && !listen.0.ip().is_loopback()
        && server.users.is_empty()
    {
        let place = factory.head.get("opcua_server").map_or(Place::NONE, |node| node.place);
        problems
            .error(place, format!("the OPC UA server would be open to everyone who reaches {}", listen.0))
            .help("give it `users: {scada: ${file:..}}`, or let it listen on 127.0.0.1");
    }
    if !(1..=100).contains(&server.sessions.value) {
        problems.error(server.sessions.place, "`sessions` is from 1 to 100");
    }
    registry(&factory.schemas, problems);
    http(factory, problems);
}

fn http(factory: &Factory, problems: &mut Problems) {
    let http = &factory.http;
    let place = |key| factory.head.get("http").map(|node| node.get(key).unwrap_or(node).place).unwrap_or_default();
    if !http.listen.0.ip().is_loopback() && (http.tls.is_none() || (http.tokens.is_empty() && http.users.is_empty())) {
        problems
            .error(place("listen"), format!("the console would be open to everyone who reaches {}", http.listen.0))
            .help("give it `tls: {certificate: .., key: ..}` and `tokens: {name: {token: ${file:..}}}` under `http`, or let it listen on 127.0.0.1");
    }
    for (name, token) in &http.tokens {
        let text = token.token.expose();
        // What is not read now is a reference.
        if text.len() < SHORTEST_TOKEN && !text.starts_with("${") {
            problems
                .error(place("tokens"), format!("the token `{name}` is shorter than {SHORTEST_TOKEN} characters"))
                .help("make one with `openssl rand -hex 32`");
        }
    }
    for (name, user) in &http.users {
        if !user.hash.starts_with("$argon2id$") || user.hash.split('$').count() != 6 {
            problems
                .error(user.hash.place, format!("the hash of user `{name}` is not of Argon2"))
                .help("make one with `millrace config hash`, which asks for the password");
        }
    }
}

/// A token of fewer characters can be guessed.
const SHORTEST_TOKEN: usize = 16;

fn registry(schemas: &Schemas, problems: &mut Problems) {
    let registry = &schemas.registry;
    let is_named = registry.value == "embedded" || registry.value == "none";
    if !is_named {
        for url in registry.split(',').map(str::trim) {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                problems
                    .error(registry.place, format!("`{url}` is not a registry"))
                    .help("write its address, `http://registry:8081`, or `embedded`, or `none`");
            }
        }
    }
    if registry.value == "embedded" && !schemas.listen.0.ip().is_loopback() {
        problems
            .warn(registry.place, format!("the embedded registry listens at {} and asks nobody for a login", schemas.listen.0))
            .help("whoever reaches it may register and delete schemas: keep it behind a firewall, or listen on 127.0.0.1");
    }
    let Some(login) = &schemas.login else { return };
    let RegistryLogin { user, password, token } = &login.value;
    if is_named {
        problems
            .error(login.place, format!("`login` with `registry: {}`", registry.value))
            .help("leave it out: it is for a registry with an address");
    } else if !matches!((user, password, token), (Some(_), Some(_), None) | (None, None, Some(_))) {
        problems
            .error(login.place, "a login of a registry is a user and a password, or a token")
            .help("write `{user: .., password: \"${env:NAME}\"}` or `{token: \"${env:NAME}\"}`");
    }
}

/// Passwords among Kafka's properties come by reference, like any secret.
fn written_out_passwords(factory: &Factory, problems: &mut Problems) {
    let head = factory.head.get("kafka").and_then(|kafka| kafka.get("properties"));
    let sinks = factory.sinks.iter().filter_map(|sink| sink.node.get("properties"));
    for entry in head.into_iter().chain(sinks).flat_map(Node::entries) {
        let secret = entry.key.ends_with("password") || entry.key.ends_with("secret") || entry.key.ends_with("key.pem");
        if let Some(text) = entry.value.text().filter(|text| secret && text.reference().is_none()) {
            problems.written_out(entry.value.place, text);
        }
    }
}
