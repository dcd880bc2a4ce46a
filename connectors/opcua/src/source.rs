//! The sessions of a source.

use crate::compiled::{CompiledSource, Tag, is_polled, is_subscribed};
use crate::config::SourceConfig;
use crate::pki::Mark;
use crate::security::{Accept, Policy};
use crate::shard::Shard;
use crate::target::Identity;
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::{self, BrowseFn};
use millrace_contract::{Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo};
use millrace_kit::Connections;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// `type: opcua` among the sources.
pub struct OpcUaSource;

impl Plugin for OpcUaSource {
    const TYPE: &'static str = "opcua";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn plugin::Compiled>> {
        let job = config.compile(context, problems)?;
        Some(Box::new(Compiled(Arc::new(job))))
    }

    fn browse() -> Option<BrowseFn> {
        Some(crate::browse::browse)
    }

    fn probe() -> Option<BrowseFn> {
        Some(crate::probe::probe)
    }
}

struct Compiled(Arc<CompiledSource>);

impl plugin::Compiled for Compiled {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(OpcUa { job: self.0.clone(), shards: Connections::default(), judged_by: Mark::default() }))
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn in_place(&self) -> &'static [&'static str] {
        &["groups"]
    }

    fn hand_to(&self, running: &mut dyn Source) -> bool {
        let Some(running) = (running as &mut dyn Any).downcast_mut::<OpcUa>() else { return false };
        running.job = self.0.clone();
        running.shards.resting().for_each(|shard| shard.take_over(self.0.clone()));
        true
    }

    fn guarantee(&self) -> Guarantee {
        // That of its weakest group.
        let polled: Vec<&str> = self.0.polled.groups.iter().filter(|group| is_polled(group)).map(|group| &*group.part).collect();
        if !polled.is_empty() {
            let of = if polled.len() == self.0.polled.groups.len() { "polled".to_owned() } else { format!("{} polled", list(&polled)) };
            return Guarantee::AtMostOnce(format!("{of}: what changes between two polls, or while nobody polls, is not seen"));
        }
        Guarantee::AtLeastOnce(
            "the server keeps what was not acknowledged while its subscription lives; after that, what its history holds, if `history` is asked for".into(),
        )
    }

    fn plan(&self) -> Plan {
        let job = &self.0;
        let first = &job.targets[0];
        let security = match first.policy {
            Policy::None => "not secured".to_owned(),
            policy => format!("secured with {policy:?}, {:?}", first.mode),
        };
        let mut lines = vec![format!("{security}, {} session(s), keep-alive {:?}", job.sessions, job.keep_alive)];
        if first.policy == Policy::None && matches!(first.identity, Identity::User(..)) {
            lines.push("the password is sent in clear text, unless the server asks for it encrypted".to_owned());
        }
        if !first.accept.is_empty() {
            let words: Vec<&str> = first.accept.iter().map(|accept| Accept::name(*accept)).collect();
            lines.push(format!("accepted of the server's certificate: {}", words.join(", ")));
        }
        lines.push(match job.closes {
            true => "at a stop its sessions are closed; what changes until the next start is not seen".to_owned(),
            false => format!(
                "at a stop its sessions stay on the server for up to {:?} (`lifetime`), so that the next start goes on with them",
                job.lifetime
            ),
        });
        for group in &job.polled.groups {
            let tags = group.tags.len();
            let found =
                group.own.browse.as_ref().map_or_else(String::new, |browse| format!(", and up to {} found by browsing", browse.limit));
            lines.push(match &group.trigger {
                Some(trigger) => format!(
                    "{}: {tags} nodes read when {}, to {}",
                    group.part,
                    trigger.describe(&job.polled.tags),
                    job.model.routes[trigger.route].topic
                ),
                None if is_polled(group) => {
                    format!("{}: {tags} nodes{found} read every {:?}, in calls of at most 1000", group.part, group.every)
                }
                None => format!(
                    "{}: subscription every {:?}, {tags} items{found}, sampled every {:?}, in calls of at most 1000",
                    group.part, group.every, group.own.sampling
                ),
            });
        }
        for events in &job.events {
            lines.push(format!(
                "{}: {} fields to {}",
                job.model.routes[events.route].name,
                events.fields.len(),
                job.model.routes[events.route].topic
            ));
        }
        let bridged = |tag: &Tag| tag.address.sampling.max(Duration::from_millis(10)) * tag.address.queue;
        let subscribed = job.polled.tags.iter().filter(|tag| is_subscribed(&job.polled.groups[tag.group]));
        if let Some(bridged) = subscribed.map(bridged).min() {
            let rest = match job.history {
                Some(_) => "of a longer one, what the server's history holds is read back",
                None => "of a longer one, the oldest changes are lost, and counted as `server_queue`; `history` or a larger `queue` help",
            };
            lines.push(format!("a stop of up to {bridged:?} is bridged by the server's queues; {rest}"));
        }
        if let Some(history) = &job.history {
            lines.push(format!("what was missed is read back from the server's history, at most {} values/s", history.per_s));
        }
        let endpoint = job.targets.iter().map(|target| target.url.as_str()).collect::<Vec<_>>().join(", ");
        Plan { endpoint, lines, rate: job.rate() }
    }
}

/// `group 1, group 3`; of many the first.
fn list(parts: &[&str]) -> String {
    match parts {
        [first, _, _, _, ..] => format!("{first} and {} more", parts.len() - 1),
        few => few.join(", "),
    }
}

struct OpcUa {
    job: Arc<CompiledSource>,
    /// One for each session.
    shards: Connections<Shard>,
    /// What the folder of certificates was like when the last session began.
    judged_by: Mark,
}

/// How often a blocked source looks whether a person trusts a certificate now.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl OpcUa {
    async fn mark(&self) -> Mark {
        let pki = self.job.targets[0].pki.clone();
        tokio::task::spawn_blocking(move || pki.mark()).await.unwrap_or_default()
    }
}

#[async_trait]
impl Source for OpcUa {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        self.judged_by = self.mark().await;
        let job = self.job.clone();
        self.shards.run(job.sessions, &io, |index| Shard::new(job.clone(), index)).await
    }

    async fn unblocked(&mut self) {
        while self.mark().await == self.judged_by {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
