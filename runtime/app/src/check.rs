//! `millrace check` and `millrace plan`: everything that can be said about a factory before anything is touched.

use crate::catalog::ENTRIES;
use crate::say::{self, say, say_part, tell_part};
use anyhow::Result;
use millrace_config::{Factory, Load, Problems};
use millrace_engine::compile::{CompiledFactory, SourceSpec, compile};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Loads and compiles; the works are there when nothing is wrong.
pub fn load(paths: &[PathBuf], how: &Load, problems: &mut Problems) -> (Option<Factory>, Option<CompiledFactory>) {
    let Some(factory) = millrace_config::load(paths, how, problems) else { return (None, None) };
    let works = compile(&factory, ENTRIES, problems);
    let _ = crate::alarm::Compiled::compile(&factory, problems);
    crate::face::check(&factory, problems);
    let _ = millrace_otlp::Collector::compile(&factory.otlp, problems);
    let works = (!problems.has_errors()).then_some(works);
    (Some(factory), works)
}

pub fn check(paths: &[PathBuf], json: bool, expanded: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works) = load(paths, &Load::to_check(), &mut problems);
    if expanded && let Some(factory) = &factory {
        say_part!("{}", millrace_config::expanded(factory));
    }
    if json {
        let limits: Vec<Value> = works.iter().flat_map(|works| works.sources.iter().filter_map(move |s| limits(works, s))).collect();
        say::json(&json!({ "ok": works.is_some(), "problems": problems.to_json(), "limits": limits }));
    } else {
        tell_part!("{}", problems.render());
        if let Some(works) = &works
            && !expanded
        {
            say!("{}: {} sources, {} sinks, {} topics: no error", works.site, works.sources.len(), sinks(works), works.declared.len());
            for limits in works.sources.iter().filter_map(|source| limits(works, source)) {
                say!("{}: {}", limits["source"].as_str().unwrap_or_default(), limits_for_a_person(&limits));
            }
        }
    }
    Ok(if works.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sinks(works: &CompiledFactory) -> usize {
    works.sinks.len() + works.commands.len()
}

/// Where a source takes more than Kafka does: what the device may send, what each topic takes. What is between the two is kept on the disk.
fn limits(works: &CompiledFactory, source: &SourceSpec) -> Option<Value> {
    let topics = works.too_small_for(source);
    let longest = source.compiled.longest().filter(|_| !topics.is_empty())?;
    let topics: Vec<Value> = topics.iter().map(|(name, takes)| json!({"topic": name, "takes_bytes": takes})).collect();
    Some(json!({"source": source.name, "device_may_send_bytes": longest, "topics": topics}))
}

fn limits_for_a_person(limits: &Value) -> String {
    let bytes = |value: &Value| bytes(value.as_u64().unwrap_or_default());
    let topics: Vec<String> = limits["topics"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|topic| format!("topic {} takes {}", topic["topic"].as_str().unwrap_or_default(), bytes(&topic["takes_bytes"])))
        .collect();
    format!(
        "a message may have {}, {}: a longer one is kept whole in the data directory, and its dead letter names the file. Raise the topic's \
         `max.message.bytes`, or let the device send less",
        bytes(&limits["device_may_send_bytes"]),
        topics.join(", ")
    )
}

fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB { format!("{bytes} bytes") } else { format!("{} MiB", (bytes as f64 / MIB as f64 * 10.0).round() / 10.0) }
}

pub fn plan(paths: &[PathBuf], json: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works) = load(paths, &Load::to_check(), &mut problems);
    if !json {
        tell_part!("{}", problems.render());
    }
    let Some((factory, works)) = factory.zip(works) else {
        if json {
            say::json(&json!({ "ok": false, "problems": problems.to_json() }));
        }
        return Ok(ExitCode::FAILURE);
    };
    let plan = plan_of(&factory, &works);
    if json {
        say::json(&plan);
    } else {
        say_part!("{}", say::visible_lines(&for_a_person(&plan)));
    }
    Ok(ExitCode::SUCCESS)
}

fn plan_of(factory: &Factory, works: &CompiledFactory) -> Value {
    let delivery = match factory.kafka.delivery {
        millrace_config::factory::Delivery::AtLeastOnce => "at_least_once",
        millrace_config::factory::Delivery::ExactlyOnce => "exactly_once",
    };
    let sources: Vec<Value> = works
        .sources
        .iter()
        .map(|s| {
            let plan = s.compiled.plan();
            let model = s.compiled.model();
            let mut topics: Vec<&str> = model.routes.iter().map(|r| &*r.topic).chain(model.tags.iter().map(|t| &*t.topic)).collect();
            topics.sort_unstable();
            topics.dedup();
            // What is only found by a browse goes where the source says.
            let connector = factory.sources.iter().find(|connector| connector.name == s.name);
            let own = connector.and_then(|connector| connector.source_keys(&mut Problems::new()).0?.topic).map(|topic| topic.value);
            if topics.is_empty() {
                topics.extend(own.as_deref());
            }
            let guarantee = s.compiled.guarantee();
            json!({
                "name": s.name, "type": s.type_name, "endpoint": plan.endpoint, "does": plan.lines, "values_per_second": plan.rate,
                "tags": model.tags.len(), "topics": topics, "guarantee": guarantee.words(), "because": guarantee.because(), "log_bytes": s.log_size,
                "limits": limits(works, s),
            })
        })
        .collect();
    let mut sinks: Vec<Value> = works
        .sinks
        .iter()
        .map(|s| {
            let plan = s.compiled.plan();
            json!({ "name": s.name, "type": s.type_name, "endpoint": plan.endpoint, "does": plan.lines, "topics": s.topics, "group": s.group })
        })
        .collect();
    sinks.extend(works.commands.iter().map(|c| {
        let does: Vec<String> = c.allow.keys().map(|tag| format!("writes {tag}")).collect();
        json!({ "name": c.name, "type": "commands", "endpoint": c.source, "does": does, "topics": c.topics, "group": c.group })
    }));
    json!({
        "site": works.site, "brokers": factory.kafka.brokers.value, "delivery": delivery, "data_dir": factory.data_dir,
        "topics": works.declared.iter().map(|t| &t.name).collect::<Vec<_>>(), "sources": sources, "sinks": sinks,
    })
}

fn for_a_person(plan: &Value) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let list = |v: &Value| v.as_array().map_or(String::new(), |a| a.iter().map(text).collect::<Vec<_>>().join(", "));
    let _ = writeln!(out, "{}  ->  Kafka {} ({} from the log)", text(&plan["site"]), text(&plan["brokers"]), text(&plan["delivery"]));
    for (word, key) in [("source", "sources"), ("sink", "sinks")] {
        for item in plan[key].as_array().into_iter().flatten() {
            let _ = writeln!(out, "\n{word} {} ({}) {}", text(&item["name"]), text(&item["type"]), text(&item["endpoint"]));
            for line in item["does"].as_array().into_iter().flatten() {
                let _ = writeln!(out, "  {}", text(line));
            }
            let _ = writeln!(out, "  topics: {}", list(&item["topics"]));
            if item["limits"].is_object() {
                let _ = writeln!(out, "  limits: {}", limits_for_a_person(&item["limits"]));
            }
            if item["guarantee"].is_string() {
                let _ = writeln!(out, "  guarantee: {}: {}", text(&item["guarantee"]), text(&item["because"]));
            }
            if item["group"].is_string() {
                let _ = writeln!(out, "  group: {}", text(&item["group"]));
            }
        }
    }
    out
}
