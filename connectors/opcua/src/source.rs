//! The sessions of a source.

use crate::config::SourceConfig;
use crate::job::{How, Job};
use crate::pki::Mark;
use crate::shard::Shard;
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::{self, BrowseFn};
use millrace_contract::{Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

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

struct Compiled(Arc<Job>);

impl plugin::Compiled for Compiled {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(OpcUa { job: self.0.clone(), shards: Vec::new(), judged_by: Mark::default() }))
    }

    fn guarantee(&self) -> Guarantee {
        let polls = |job: &Job| job.groups.iter().all(|group| matches!(group.how, How::Poll));
        if polls(&self.0) && self.0.events.is_empty() {
            return Guarantee::AtMostOnce("polled: what changes between two polls, or while nobody polls, is not seen".into());
        }
        Guarantee::AtLeastOnce(
            "the server keeps what was not acknowledged while its subscription lives; after that, what its history holds, if `history` is asked for".into(),
        )
    }

    fn plan(&self) -> Plan {
        let job = &self.0;
        let first = &job.targets[0];
        let mut lines = vec![format!("{:?} {:?}, {} session(s), keep-alive {:?}", first.policy, first.mode, job.sessions, job.keep_alive)];
        for group in &job.groups {
            let tags = group.tags.len();
            let found = group.browse.as_ref().map_or_else(String::new, |browse| format!(", and up to {} found by browsing", browse.limit));
            lines.push(match &group.how {
                How::Subscribe => format!(
                    "{}: subscription every {:?}, {tags} items{found}, sampled every {:?}, in calls of at most 1000",
                    group.part, group.every, group.sampling
                ),
                How::Poll => format!("{}: {tags} nodes{found} read every {:?}, in calls of at most 1000", group.part, group.every),
                How::Trigger(trigger) => {
                    format!(
                        "{}: {tags} nodes read when {} changes, to {}",
                        group.part, job.tags[trigger.tag].def.path, job.model.routes[trigger.route].topic
                    )
                }
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
        if let Some(history) = &job.history {
            lines.push(format!("what was missed is read back from the server's history, at most {} values/s", history.per_s));
        }
        let endpoint = job.targets.iter().map(|target| target.url.as_str()).collect::<Vec<_>>().join(", ");
        Plan { endpoint, lines, rate: job.rate() }
    }
}

struct OpcUa {
    job: Arc<Job>,
    /// One for each session; `None` while its task has it.
    shards: Vec<Option<Shard>>,
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
        let mut running = JoinSet::new();
        self.shards.resize_with(self.job.sessions, || None);
        for (index, slot) in self.shards.iter_mut().enumerate() {
            let mut shard = slot.take().unwrap_or_else(|| Shard::new(self.job.clone(), index));
            let io = io.clone();
            running.spawn(async move {
                let ended = shard.run(&io).await;
                (shard, ended)
            });
        }
        // The first that fails ends the others: they connect again with it, and find their places by their positions.
        let mut first = None;
        while let Some(joined) = running.join_next().await {
            let ended = match joined {
                Ok((shard, ended)) => {
                    let index = shard.index();
                    self.shards[index] = Some(shard);
                    ended
                }
                Err(error) if error.is_cancelled() => continue,
                Err(error) => Failure::Reconnect(format!("a session's task ended: {error}")),
            };
            if ended != Failure::Stopped {
                running.abort_all();
            }
            first.get_or_insert(ended);
        }
        match first {
            None | Some(Failure::Stopped) => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    async fn unblocked(&mut self) {
        while self.mark().await == self.judged_by {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
