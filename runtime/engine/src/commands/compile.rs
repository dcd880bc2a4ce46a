//! From the file's words to the rules of a command sink; what contradicts the source is a problem.

use crate::commands::request;
use crate::commands::request::value_of;
use crate::commands::rules::{Allow, Allowed, CommandConfig, CommandRules};
use crate::compiled::{self, CompiledFactory};
use millrace_config::factory::{self, Connector, Factory, SinkKeys};
use millrace_config::{Node, Problems, suggest};
use millrace_contract::plugin::tag_path;
use millrace_contract::{CommandValue, TagDef};

/// The schema that the engine has for an Avro topic of commands or answers that names none; `None`: the topic is no such.
pub(crate) fn role_of(factory: &Factory, topic: &str) -> Option<&'static str> {
    let mut sinks = factory.sinks.iter().filter(|connector| connector.type_name.value == factory::COMMANDS);
    sinks.find_map(|connector| {
        let (keys, own) = connector.sink_keys(&mut Problems::new());
        if keys.is_some_and(|keys| keys.topics.iter().any(|name| name.value == topic)) {
            return Some(request::COMMAND);
        }
        let reply = own.parse::<CommandConfig>(&mut Problems::new()).and_then(|config| config.reply);
        reply.is_some_and(|reply| reply.value == topic).then_some(request::ANSWER)
    })
}

pub(crate) fn compile(
    factory: &Factory,
    connector: &Connector,
    keys: &SinkKeys,
    own: &Node,
    works: &CompiledFactory,
    problems: &mut Problems,
) -> Option<CommandRules> {
    let config: CommandConfig = own.parse(problems)?;
    if factory.floor.writes.value != factory::Writes::Allowed {
        problems
            .error(connector.place, format!("sink {} writes to a device, and writes are forbidden", connector.name))
            .help("say `floor: {writes: allowed}` in this file if that is meant")
            .also(factory.floor.writes.place, "writes are forbidden here (or by default)");
    }
    let Some(target) = factory.sources.iter().find(|c| c.name == config.source.value) else {
        let names: Vec<&str> = works.sources.iter().map(|s| s.name.as_str()).collect();
        problems
            .error(config.source.place, format!("there is no source {}", config.source.value))
            .help(format!("sources: {}", names.join(", ")));
        return None;
    };
    if config.allow.is_empty() {
        problems.warn(connector.place, format!("sink {} allows no tag: every command will be refused", connector.name));
    }
    let at = target.source_keys(&mut Problems::new()).0.map(|k| k.at).unwrap_or_default();
    let compiled = works.sources.iter().find(|source| source.name == config.source.value);
    let allow = config.allow.into_iter().map(|(tag, allow)| {
        let tags = compiled.map_or(&[][..], |source| &source.compiled.model().tags);
        let allowed = allowed(connector, &tag, &tag_path(&at, &tag), allow, tags, problems);
        (tag, allowed)
    });
    Some(CommandRules {
        name: connector.name.clone(),
        allow: allow.collect(),
        source: config.source.value,
        at,
        topics: keys.topics.iter().map(|t| t.value.clone()).collect(),
        group: compiled::group(factory, connector, keys),
        reply: config.reply.map(|r| r.value),
        reads_conditions: compiled.is_some_and(|source| source.compiled.reads_conditions()),
    })
}

/// Compiles the bounds of one tag; what the source knows of it before it connects must allow writing.
fn allowed(connector: &Connector, tag: &str, path: &str, bounds: Allow, tags: &[TagDef], problems: &mut Problems) -> Allowed {
    let known = tags.iter().find(|def| def.path == path).or_else(|| tags.iter().find(|def| def.path == tag));
    let place = connector.node.get("allow").and_then(|allow| allow.get(tag)).map_or(connector.place, |node| node.place);
    match known {
        Some(def) if def.options.writable != Some(true) => {
            problems
                .error(place, format!("allow {tag}: the tag is not writable"))
                .help("add `writable: true` to the tag, where it is declared, if commands may change it");
        }
        Some(_) => {}
        None => {
            if let Some(near) = suggest::nearest(path, tags.iter().map(|def| def.path.as_str())) {
                problems
                    .warn(
                        place,
                        format!(
                            "allow {tag}: the source declares no such tag; unless it turns up when it connects, every command is refused"
                        ),
                    )
                    .help(format!("did you mean the tag of {near}?"));
            }
        }
    }
    if let (Some(min), Some(max)) = (bounds.min, bounds.max)
        && min > max
    {
        problems.error(place, format!("allow {tag}: min {min} is above max {max}"));
    }
    if bounds.step.is_some_and(|step| step.is_nan() || step <= 0.0) {
        problems.error(place, format!("allow {tag}: a step of {} lets no change through", bounds.step.unwrap_or_default()));
    }
    let mut only_if = Vec::new();
    for (name, wanted) in &bounds.only_if {
        match value_of(wanted) {
            Ok(
                wanted @ (CommandValue::Bool(_)
                | CommandValue::Int(_)
                | CommandValue::UInt(_)
                | CommandValue::Double(_)
                | CommandValue::Text(_)),
            ) => {
                only_if.push((name.clone(), wanted));
            }
            _ => {
                problems.error(place, format!("allow {tag}: only_if {name}: {wanted} is neither a number, true, false nor a text"));
            }
        }
    }
    let named = known.and_then(|def| def.options.values.as_ref()).into_iter().flatten();
    let words = named.filter_map(|(value, word)| Some((word.clone(), CommandValue::Int(value.parse().ok()?)))).collect();
    Allowed { bounds, only_if, words }
}
