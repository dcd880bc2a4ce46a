//! The source: one session reads `$metadata`, then each entity set in a task of its own; requests take turns.

use crate::reading::{Reading, Trouble};
use crate::service::{Endpoint, Service};
use crate::set::Set;
use crate::shape;
use async_trait::async_trait;
use millrace_config::Reason;
use millrace_contract::{Failure, Source, SourceIo, Status};
use millrace_kit::Backoff;
use millrace_kit::connections::{Connection, Connections, Others};
use millrace_schemas::RouteId;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub struct ErpSource {
    endpoint: Arc<Endpoint>,
    sets: Vec<Arc<Set>>,
    namespace: Arc<str>,
}

impl ErpSource {
    pub fn new(endpoint: Arc<Endpoint>, sets: Vec<Arc<Set>>, namespace: Arc<str>) -> Self {
        Self { endpoint, sets, namespace }
    }
}

#[async_trait]
impl Source for ErpSource {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let service = Arc::new(Service::new(&self.endpoint)?);
        let metadata = tokio::select! {
            biased;
            () = io.stopping() => return Ok(()),
            metadata = service.metadata() => Arc::new(metadata?),
        };
        io.status("", Status::Running);
        let make = |number: usize| Reader {
            service: service.clone(),
            set: self.sets[number].clone(),
            route: RouteId(number as u32),
            metadata: metadata.clone(),
            namespace: self.namespace.clone(),
        };
        Connections::default().run(self.sets.len(), &io, make).await
    }
}

/// One entity set that is read.
struct Reader {
    service: Arc<Service>,
    set: Arc<Set>,
    route: RouteId,
    metadata: Arc<crate::metadata::Metadata>,
    namespace: Arc<str>,
}

/// A set that fails by itself is asked again, ever more slowly.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

impl Connection for Reader {
    async fn run(&mut self, io: &SourceIo, mut others: Others) -> Failure {
        tokio::select! {
            biased;
            () = io.stopping() => Failure::Stopped,
            () = others.ended() => Failure::Stopped,
            failure = self.read(io) => failure,
        }
    }
}

impl Reader {
    async fn read(&self, io: &SourceIo) -> Failure {
        let (mut due, mut wait) = (Instant::now(), None);
        let mut reading: Option<Reading> = None;
        loop {
            tokio::time::sleep_until(due).await;
            let outcome = match &mut reading {
                Some(reading) => reading.poll(io).await,
                none => match self.begin(io) {
                    Ok(begun) => none.insert(begun).poll(io).await,
                    Err(trouble) => Err(trouble),
                },
            };
            match outcome {
                Ok(()) => {
                    wait = None;
                    io.alive(&self.set.name);
                    due = (due + self.set.every).max(Instant::now());
                    if let Some(reading) = &mut reading {
                        io.status(&self.set.name, reading.status());
                        if let Err(failure) = reading.reconcile(io, due).await {
                            return failure;
                        }
                    }
                }
                Err(Trouble::Session(failure)) => return failure,
                Err(Trouble::Set { text, needs_human, .. }) => {
                    // What was read and not sent is read again: from the position.
                    reading = None;
                    let after = BACKOFF.after(wait);
                    wait = Some(after);
                    tracing::warn!(set = &*self.set.name, "cannot read the entity set: {text}; asked again in {after:?}");
                    io.status(&self.set.name, if needs_human { Status::Blocked(text) } else { Status::Degraded(text) });
                    due = Instant::now() + after;
                }
            }
        }
    }

    /// Finds out what the set is made of.
    fn begin(&self, io: &SourceIo) -> Result<Reading, Trouble> {
        let wrong = |text: Reason| Trouble::set(text.into(), true);
        let set = &self.set;
        let Some(type_name) = self.metadata.type_of_set(&set.name) else {
            let names: Vec<_> = self.metadata.sets.iter().map(|(name, _)| name.as_str()).take(30).collect();
            return Err(wrong(format!("the service has no entity set {}; it has {}", set.name, names.join(", ")).into()));
        };
        let record = shape::of(&self.metadata, type_name, &set.select, &set.expand).map_err(wrong)?;
        let schema = |kind| record.schema(kind, &self.namespace);
        io.describe(self.route, &schema).map_err(|error| wrong(format!("{}: its schema cannot be used: {error}", set.name).into()))?;
        let has_delta_links = set.wants_delta && self.metadata.type_of_set(&format!("DeltaLinksOf{}", set.name)).is_some();
        let kind = (self.metadata.version, has_delta_links);
        Reading::new(self.service.clone(), set.clone(), self.route, record, kind, io).map_err(wrong)
    }
}
