//! A connector compiled from its YAML, as the runtime does it.

use millrace_config::Place;
use millrace_contract::{Context, TagOptions};
use std::sync::Arc;

/// What stands around a connector named `name` of the site `test/site`, its topic `telemetry`.
pub fn context(name: &str) -> Context {
    Context {
        name: name.into(),
        place: Place::default(),
        site: "test/site".into(),
        at: format!("at/{name}"),
        topic: Some(Arc::from("telemetry")),
        options: TagOptions::default(),
        topics: Vec::new(),
        writes_allowed: true,
    }
}
