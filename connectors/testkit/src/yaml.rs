//! A connector compiled from its YAML, as the runtime does it.

use millrace_config::{Node, Place, Problems};
use millrace_contract::{Cluster, Compiled, Context, Entry, Plugin, TagOptions};
use std::sync::Arc;

/// What stands around a connector named `name` of the site `test/site`: its `at` is `at/name`, its topic `telemetry`; a sink reads `topics`.
pub fn context(name: &str, topics: &[&str]) -> Context {
    Context {
        name: name.into(),
        place: Place::default(),
        site: "test/site".into(),
        levels: Vec::new(),
        at: format!("at/{name}"),
        topic: Some(Arc::from("telemetry")),
        options: TagOptions::default(),
        topics: topics.iter().map(ToString::to_string).collect(),
        carries: millrace_contract::Carries::default(),
        schemas: Vec::new(),
        declared: Vec::new(),
        writes_allowed: true,
        data_dir: "millrace-data".into(),
        sources: [name.to_owned()].into(),
        cluster: Cluster::default(),
    }
}

/// Compiles a connector's own keys. Errors: every problem, as a person would read them.
pub fn compile<P: Plugin>(yaml: &str, context: &Context) -> Result<Box<dyn Compiled>, String> {
    let mut problems = Problems::new();
    let compiled = Node::from_yaml(yaml, &mut problems).and_then(|node| (Entry::of::<P>().compile)(&node, context, &mut problems));
    match compiled {
        Some(compiled) if !problems.has_errors() => Ok(compiled),
        _ => Err(problems.render()),
    }
}
