//! `millrace check` and `millrace plan`: everything that can be said about a factory before anything is touched.

use crate::catalog::ENTRIES;
use anyhow::Result;
use millrace_config::{Factory, Load, Problems};
use millrace_engine::compile::{Works, compile};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Loads and compiles; the works are there when nothing is wrong.
pub fn load(paths: &[PathBuf], how: &Load, problems: &mut Problems) -> (Option<Factory>, Option<Works>) {
    let Some(factory) = millrace_config::load(paths, how, problems) else { return (None, None) };
    let works = compile(&factory, ENTRIES, problems);
    let works = (!problems.has_errors()).then_some(works);
    (Some(factory), works)
}

pub fn check(paths: &[PathBuf], json: bool, expanded: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works) = load(paths, &Load::to_check(), &mut problems);
    if expanded && let Some(factory) = &factory {
        print!("{}", millrace_config::expanded(factory));
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({ "ok": works.is_some(), "problems": problems.to_json() }))?);
    } else {
        eprint!("{}", problems.render());
        if let Some(works) = &works
            && !expanded
        {
            println!("{}: {} sources, {} sinks, {} topics: no error", works.site, works.sources.len(), sinks(works), works.declared.len());
        }
    }
    Ok(if works.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sinks(works: &Works) -> usize {
    works.sinks.len() + works.commands.len()
}

pub fn plan(paths: &[PathBuf], json: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works) = load(paths, &Load::to_check(), &mut problems);
    if !json {
        eprint!("{}", problems.render());
    }
    let Some((factory, works)) = factory.zip(works) else {
        if json {
            println!("{}", serde_json::to_string_pretty(&json!({ "ok": false, "problems": problems.to_json() }))?);
        }
        return Ok(ExitCode::FAILURE);
    };
    let plan = plan_of(&factory, &works);
    if json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        print!("{}", for_a_person(&plan));
    }
    Ok(ExitCode::SUCCESS)
}

fn plan_of(factory: &Factory, works: &Works) -> Value {
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
            let guarantee = s.compiled.guarantee();
            json!({
                "name": s.name, "type": s.type_name, "endpoint": plan.endpoint, "does": plan.lines, "values_per_second": plan.rate,
                "tags": model.tags.len(), "topics": topics, "guarantee": guarantee.words(), "because": guarantee.because(), "log_bytes": s.log_size,
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
