//! A producer's identity, and its transaction: asked of the one broker that keeps both, the coordinator of the transactional id.

use crate::error::{Class, KafkaError};
use crate::partition::TopicPartition;
use crate::wire::cluster::{ANSWER, Cluster};
use crate::wire::connection::Connection;
use crate::wire::fault::{garbled, late, refused};
use crate::wire::fields::Writer;
use crate::wire::messages::{self, Api};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between two tries, where the coordinator is busy with what came before, or moves.
const PAUSE: Duration = Duration::from_millis(20);

/// A producer's id and epoch.
pub type Identity = (i64, i16);

/// The transactions of one id.
pub struct Transaction {
    id: String,
    /// After how long the cluster ends one that is left open.
    timeout: Duration,
    coordinator: Option<Connection>,
    /// What is in the one that is open.
    parts: BTreeSet<TopicPartition>,
}

impl Transaction {
    pub fn new(id: &str, timeout: Duration) -> Self {
        Self { id: id.to_owned(), timeout, coordinator: None, parts: BTreeSet::new() }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn has(&self, part: &TopicPartition) -> bool {
        self.parts.contains(part)
    }

    /// Takes the id over: who had it before is refused from now on, and what it has open is ended.
    pub fn init(&mut self, cluster: &mut Cluster, patience: Duration) -> Result<Identity, KafkaError> {
        let (id, timeout) = (self.id.clone(), self.timeout.as_millis() as i32);
        self.ask(cluster, Api::InitProducerId, patience, |out| messages::init_producer_id(out, Some(&id), timeout), identity)
    }

    /// Takes partitions into the transaction; the first begin it.
    pub fn add(&mut self, cluster: &mut Cluster, who: Identity, parts: &[&TopicPartition], patience: Duration) -> Result<(), KafkaError> {
        let id = self.id.clone();
        let list: Vec<(&str, i32)> = parts.iter().map(|part| (&*part.topic, part.partition)).collect();
        let body = |out: &mut Writer| messages::add_partitions(out, &id, who, &list);
        self.ask(cluster, Api::AddPartitionsToTxn, patience, body, |answer| {
            // Where one is refused, the others are told that they were not tried.
            const NOT_TRIED: i16 = 55;
            let errors = messages::add_partitions_answer(answer)?;
            let first = errors
                .iter()
                .find(|(.., error)| *error != 0 && *error != NOT_TRIED)
                .or_else(|| errors.iter().find(|(.., error)| *error != 0));
            Some(match first {
                None => Ok(()),
                Some((topic, partition, error)) => Err((*error, format!("{topic}-{partition}"))),
            })
        })?;
        self.parts.extend(parts.iter().map(|part| (*part).clone()));
        Ok(())
    }

    /// Commits what is in the transaction, or takes it back. Nothing was in it: nothing happens.
    pub fn end(&mut self, cluster: &mut Cluster, who: Identity, commits: bool, patience: Duration) -> Result<(), KafkaError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let id = self.id.clone();
        let body = |out: &mut Writer| messages::end_transaction(out, &id, who, commits);
        // Asked again after an answer was lost, the coordinator says the same.
        self.ask(cluster, Api::EndTxn, patience, body, |answer| Some(outcome(messages::end_transaction_answer(answer)?)))?;
        self.parts.clear();
        Ok(())
    }

    /// Asks the coordinator until it has answered, for good or ill.
    fn ask<T>(
        &mut self,
        cluster: &mut Cluster,
        api: Api,
        patience: Duration,
        body: impl Fn(&mut Writer),
        read: impl Fn(&Bytes) -> Option<Result<T, (i16, String)>>,
    ) -> Result<T, KafkaError> {
        let deadline = Instant::now() + patience;
        loop {
            let error = match self.ask_once(cluster, api, &body) {
                Ok((answer, broker)) => match read(&answer).ok_or_else(|| garbled(&broker, api))? {
                    Ok(told) => return Ok(told),
                    Err((number, about)) => {
                        if MOVED.contains(&number) {
                            self.coordinator = None;
                        }
                        let about = if about.is_empty() { format!("for transactional id {}", self.id) } else { about };
                        refused(&broker, api, about, number)
                    }
                },
                Err(error) => {
                    self.coordinator = None;
                    error
                }
            };
            if error.class != Class::Retry || error.is_unsupported() {
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Err(late(format!("the coordinator of transactional id {} did not do {api} in time: {error}", self.id)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn ask_once(&mut self, cluster: &mut Cluster, api: Api, body: &impl Fn(&mut Writer)) -> Result<(Bytes, String), KafkaError> {
        if self.coordinator.is_none() {
            let (answer, broker) = cluster.ask_any(Api::FindCoordinator, |out| messages::find_coordinator(out, &self.id))?;
            let (error, _, address) = messages::find_coordinator_answer(&answer).ok_or_else(|| garbled(&broker, Api::FindCoordinator))?;
            if error != 0 {
                return Err(refused(&broker, Api::FindCoordinator, format_args!("for transactional id {}", self.id), error));
            }
            self.coordinator = Some(Connection::open(cluster.access(), &address)?);
        }
        let Some(coordinator) = &mut self.coordinator else { return Err(late("no coordinator is known")) };
        let answer = coordinator.ask(api, Instant::now() + ANSWER, body)?;
        Ok((answer, coordinator.broker.clone()))
    }
}

/// The coordinator is another broker, or comes up.
const MOVED: [i16; 3] = [14, 15, 16];

/// Who a producer is that has no transactions. A broker that comes up is asked again.
pub fn plain_identity(cluster: &mut Cluster, patience: Duration) -> Result<Identity, KafkaError> {
    let deadline = Instant::now() + patience;
    loop {
        let (answer, broker) = cluster.ask_any(Api::InitProducerId, |out| messages::init_producer_id(out, None, 0))?;
        let told = identity(&answer).ok_or_else(|| garbled(&broker, Api::InitProducerId))?;
        match told.map_err(|(number, _)| refused(&broker, Api::InitProducerId, "", number)) {
            Err(error) if error.class == Class::Retry && Instant::now() < deadline => std::thread::sleep(PAUSE),
            told => return told,
        }
    }
}

fn identity(answer: &Bytes) -> Option<Result<Identity, (i16, String)>> {
    let (error, id, epoch) = messages::init_producer_id_answer(answer)?;
    Some(outcome(error).map(|()| (id, epoch)))
}

const fn outcome(error: i16) -> Result<(), (i16, String)> {
    if error == 0 { Ok(()) } else { Err((error, String::new())) }
}
