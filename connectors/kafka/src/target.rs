//! Topics of the target: made like their origin where they are missing, grown with it, never changed otherwise.

use crate::names::Names;
use crate::positions;
use millrace_contract::Failure;
use millrace_kafka::{Admin, Class, KafkaError, Settings, TopicOutcome, TopicSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);

/// What a copy does not take over: how brokers replicate and check is the other cluster's own business, and a copy keeps its timestamps.
const NOT_COPIED: [&str; 7] = [
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
    "min.insync.replicas",
    "unclean.leader.election.enable",
    "compression.type",
    "confluent.placement.constraints",
    "remote.storage.enable",
];

/// How topics are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Making {
    /// Whether missing topics are made at all.
    pub create: bool,
    /// `None`: the target's default.
    pub replication: Option<i32>,
    /// Over what the origin has.
    pub properties: BTreeMap<String, String>,
}

/// Sees to it that these topics of the origin have their counterparts.
///
/// Errors: `Blocked` where a person must act, with what to do; `Reconnect` where a cluster can't be asked.
pub fn prepare(home: &Settings, target: &Settings, topics: &BTreeSet<&str>, names: &Names, making: &Making) -> Result<(), Failure> {
    let at_home = Admin::new(home, PATIENCE).map_err(|e| failure("cannot ask the factory's Kafka", &e))?;
    let shapes = at_home.topics().map_err(|e| failure("cannot ask the factory's Kafka", &e))?;
    let there = Admin::new(target, PATIENCE).map_err(|e| failure("cannot reach the target", &e))?;
    let present = there.topics().map_err(|e| failure("cannot reach the target", &e))?;
    let names_at_home: Vec<&str> = topics.iter().copied().collect();
    let configs = at_home.own_configs(&names_at_home).map_err(|e| failure("cannot read the topics' settings", &e))?;
    let mut specs = vec![positions::spec()];
    let mut grown = Vec::new();
    for (topic, config) in names_at_home.iter().zip(configs) {
        let name = names.at_target(topic);
        let partitions = shapes.get(*topic).map(|shape| shape.partitions);
        if let (Some(wanted), Some(has)) = (partitions, present.get(&name).map(|shape| shape.partitions))
            && has < wanted
        {
            grown.push((name.clone(), wanted, has));
        }
        specs.push(TopicSpec { name, partitions, replication: making.replication, configs: config_of(config, making) });
    }
    if !making.create
        && let Some(missing) = specs.iter().find(|spec| !present.contains_key(&spec.name))
    {
        return Err(Failure::Blocked(format!(
            "topic {} is not at the target, and `create: false` forbids to make it; create it with {} partitions",
            missing.name,
            missing.partitions.unwrap_or(1)
        )));
    }
    let outcomes = there.ensure(&specs).map_err(|e| failure("cannot create topics at the target", &e))?;
    for (spec, outcome) in specs.iter().zip(outcomes) {
        match outcome {
            TopicOutcome::Created => tracing::info!(topic = spec.name, "created at the target"),
            TopicOutcome::Refused(error) => return Err(failure("cannot create a topic at the target", &error)),
            TopicOutcome::Exists(contradictions) => {
                for one in contradictions.iter().filter(|one| one.what != "partitions") {
                    tracing::warn!(topic = spec.name, "is not like its origin and stays so: {one}");
                }
            }
        }
    }
    for (name, wanted, has) in &grown {
        if !making.create {
            return Err(Failure::Blocked(format!(
                "topic {name} has {has} partitions at the target and {wanted} at home; add {}",
                wanted - has
            )));
        }
        there.grow(&[(name, *wanted)]).map_err(|e| failure("cannot add partitions at the target", &e))?;
        tracing::warn!(
            topic = name,
            from = has,
            to = wanted,
            "partitions were added at the target, as at home: keys may move between partitions"
        );
    }
    let copied: Vec<&str> = specs.iter().skip(1).map(|spec| spec.name.as_str()).collect();
    let limits = there.limits(&copied).map_err(|e| failure("cannot read the target's settings", &e))?;
    for (name, limits) in copied.iter().zip(limits) {
        if limits.log_append_time {
            return Err(Failure::Blocked(format!(
                "topic {name} at the target has message.timestamp.type LogAppendTime, which replaces every record's time; set CreateTime there"
            )));
        }
    }
    Ok(())
}

fn config_of(mut own: BTreeMap<String, String>, making: &Making) -> BTreeMap<String, String> {
    own.retain(|name, _| !NOT_COPIED.contains(&name.as_str()) && !name.starts_with("message.timestamp."));
    own.extend(making.properties.clone());
    own
}

/// What an error means for the session.
pub fn failure(what: &str, error: &KafkaError) -> Failure {
    match error.class {
        Class::Denied | Class::Topic => Failure::Blocked(format!("{what}: {error}")),
        _ => Failure::Reconnect(format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_copied_but_for_those_of_the_cluster_and_those_that_are_given() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let own = map(&[
            ("retention.ms", "1000"),
            ("cleanup.policy", "compact"),
            ("min.insync.replicas", "2"),
            ("message.timestamp.type", "LogAppendTime"),
        ]);
        let making = Making { create: true, replication: None, properties: map(&[("retention.ms", "-1")]) };
        assert_eq!(config_of(own, &making), map(&[("retention.ms", "-1"), ("cleanup.policy", "compact")]));
    }
}
