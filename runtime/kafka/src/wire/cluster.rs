//! A cluster as it is at the moment: who leads which partition, and a connection to each broker that is needed.

use crate::error::{Class, KafkaError};
use crate::partition::TopicPartition;
use crate::wire::access::Access;
use crate::wire::connection::Connection;
use crate::wire::fault::{away, garbled, refused};
use crate::wire::fields::Writer;
use crate::wire::messages::{self, Api, Metadata};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long a broker may take to answer what is asked beside the flow.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Between two questions who leads what, and between two tries to reach a broker.
pub const PAUSE: Duration = Duration::from_millis(100);

/// The leader of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    pub node: i32,
    pub epoch: i32,
}

/// A cluster, as far as it is known.
pub struct Cluster {
    access: Access,
    nodes: HashMap<i32, String>,
    leaders: HashMap<TopicPartition, Leader>,
    connections: HashMap<i32, Connection>,
    /// For what is asked beside the flow.
    side: Option<Connection>,
    /// Nobody is asked before.
    ask_at: Instant,
    /// No broker is tried before.
    connect_at: Instant,
}

impl Cluster {
    /// No broker is asked yet.
    pub fn new(access: Access) -> Self {
        let now = Instant::now();
        let (nodes, leaders, connections) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { access, nodes, leaders, connections, side: None, ask_at: now, connect_at: now }
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The partition's leader; `None`: it is not known at the moment.
    pub fn leader(&self, part: &TopicPartition) -> Option<Leader> {
        self.leaders.get(part).copied()
    }

    /// The partition's leader is another one, or none.
    pub fn forget(&mut self, part: &TopicPartition) {
        self.leaders.remove(part);
    }

    /// Asks who leads these topics' partitions, unless somebody was asked a moment ago.
    ///
    /// Errors: those that nobody gets over without a person. A cluster that is away is asked again the next time.
    pub fn learn(&mut self, topics: &BTreeSet<&str>) -> Result<(), KafkaError> {
        if Instant::now() < self.ask_at {
            return Ok(());
        }
        self.ask_at = Instant::now() + PAUSE;
        match self.ask_metadata(topics) {
            Err(error) if error.class == Class::Retry && !error.is_unsupported() => {
                tracing::debug!("the cluster cannot be asked who leads what: {error}");
                Ok(())
            }
            told => told,
        }
    }

    /// The same, at once, and every error is told.
    pub fn ask_metadata(&mut self, topics: &BTreeSet<&str>) -> Result<(), KafkaError> {
        let names: Vec<&str> = topics.iter().copied().collect();
        let (answer, broker) = self.ask_any(Api::Metadata, |out| messages::metadata(out, &names))?;
        let told = messages::metadata_answer(&answer).ok_or_else(|| garbled(&broker, Api::Metadata))?;
        self.take(told, &broker)
    }

    fn take(&mut self, told: Metadata, broker: &str) -> Result<(), KafkaError> {
        self.nodes = told.brokers.into_iter().collect();
        // A broker that is somewhere else now has another connection.
        self.connections.retain(|node, connection| self.nodes.get(node) == Some(&connection.broker));
        for one in told.partitions.into_iter().filter(|one| one.node >= 0) {
            self.leaders.insert(TopicPartition::new(one.topic, one.partition), Leader { node: one.node, epoch: one.epoch });
        }
        for (topic, error) in told.refused {
            let error = refused(broker, Api::Metadata, format_args!("of topic {topic}"), error);
            if error.class != Class::Retry && !error.is_unknown_topic() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks a broker that answers, and says which one that was.
    pub fn ask_any(&mut self, api: Api, body: impl Fn(&mut Writer)) -> Result<(Bytes, String), KafkaError> {
        if let Some(mut side) = self.side.take()
            && let Ok(answer) = side.ask(api, Instant::now() + ANSWER, &body)
        {
            let broker = side.broker.clone();
            self.side = Some(side);
            return Ok((answer, broker));
        }
        let known: BTreeSet<&String> = self.nodes.values().chain(&self.access.brokers).collect();
        let mut last = None;
        for broker in known.into_iter().cloned().collect::<Vec<_>>() {
            match Connection::open(&self.access, &broker).and_then(|mut side| Ok((side.ask(api, Instant::now() + ANSWER, &body)?, side))) {
                Ok((answer, side)) => {
                    self.side = Some(side);
                    return Ok((answer, broker));
                }
                // Who is not let in by one is told so, though others may be away.
                Err(error) => match &last {
                    Some(KafkaError { class: Class::Denied, .. }) => {}
                    _ => last = Some(error),
                },
            }
        }
        Err(last.unwrap_or_else(|| away("", "no broker is named")))
    }

    /// The connection to a broker; `None`: it cannot be reached at the moment, and its partitions may be led by another one soon.
    ///
    /// Errors: as [`Cluster::learn`].
    pub fn connection(&mut self, node: i32) -> Result<Option<&mut Connection>, KafkaError> {
        if !self.connections.contains_key(&node) {
            let Some(broker) = self.nodes.get(&node).filter(|_| Instant::now() >= self.connect_at) else { return Ok(None) };
            match Connection::open(&self.access, broker) {
                Ok(connection) => {
                    self.connections.insert(node, connection);
                }
                Err(error) if error.class == Class::Retry && !error.is_unsupported() => {
                    tracing::debug!("{error}");
                    self.lose(node);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.connections.get_mut(&node))
    }

    /// The connection to a broker, where there is one.
    pub fn connected(&mut self, node: i32) -> Option<&mut Connection> {
        self.connections.get_mut(&node)
    }

    pub fn connections(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.connections.values_mut()
    }

    /// The connection to a broker is lost: what it leads is asked for again.
    pub fn lose(&mut self, node: i32) {
        self.connections.remove(&node);
        self.leaders.retain(|_, leader| leader.node != node);
        self.connect_at = Instant::now() + PAUSE;
    }
}
