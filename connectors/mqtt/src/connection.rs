//! What a connection of the source keeps from one session to the next, and how it opens.

use crate::compile::Compiled;
use crate::intake::Intake;
use crate::kept::{Filters, Unreleased};
use crate::packet::{Qos, Will};
use crate::session::{Opening, Session};
use crate::sparkplug::{Host, Outgoing};
use millrace_contract::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::time::Instant;

/// A connection that ends sooner is young.
const YOUNG: Duration = Duration::from_secs(60);

/// One connection, and what it keeps from one session to the next.
pub struct Connection {
    pub compiled: Arc<Compiled>,
    pub index: usize,
    pub intake: Intake,
    /// `None` until the position was asked.
    pub unreleased: Option<Unreleased>,
    pub filters: Option<Filters>,
    /// Filters the broker does not grant.
    pub refused: BTreeSet<String>,
    /// How often in a row the broker closed a young connection without a word.
    pub closed_young: u32,
    /// How many connections of the source have all their filters.
    pub up: Arc<AtomicUsize>,
    /// What a session handed over: the open connection, and the packet identifier used last.
    pub handed: Option<(Session, u16)>,
}

impl Connection {
    pub fn new(compiled: Arc<Compiled>, index: usize, up: Arc<AtomicUsize>) -> Self {
        let host = compiled.host.as_ref().map(|config| Host::new(config.clone(), compiled.sparkplug_routes.clone()));
        let intake = Intake::new(compiled.routes.clone(), compiled.max_tags, host);
        Self { compiled, index, intake, unreleased: None, filters: None, refused: BTreeSet::new(), closed_young: 0, up, handed: None }
    }

    /// Takes over what a changed configuration subscribes to; between two sessions.
    pub fn change(&mut self, compiled: Arc<Compiled>) {
        self.intake = Intake::new(compiled.routes.clone(), compiled.max_tags, None);
        self.refused.clear();
        self.compiled = compiled;
    }

    /// The filters to hold, as the broker sees them.
    pub fn wanted(&self) -> BTreeMap<String, (Qos, u32)> {
        let compiled = &self.compiled;
        let mut wanted: BTreeMap<_, _> = compiled
            .routes
            .iter()
            .map(|route| {
                let filter = match &compiled.share {
                    Some(share) => format!("$share/{share}/{}", route.filter),
                    None => route.filter.to_string(),
                };
                (filter, (route.qos, route.subscription_id))
            })
            .collect();
        for filter in self.intake.host.iter().flat_map(Host::filters) {
            wanted.entry(filter).or_insert((Qos::AtLeastOnce, 0));
        }
        wanted
    }

    /// Not every broker says that another client took a session over: two of one id then throw each other out again and again.
    pub fn hint(&mut self, failure: Failure, begun: Instant) -> Failure {
        let Failure::Reconnect(cause) = failure else { return failure };
        let is_young = begun.elapsed() < YOUNG && cause.ends_with("closed the connection");
        self.closed_young = if is_young { self.closed_young + 1 } else { 0 };
        if self.closed_young < 3 {
            return Failure::Reconnect(cause);
        }
        let client_id = &self.compiled.client_ids[self.index];
        Failure::Reconnect(format!(
            "{cause}, {} times soon after it was opened; does another client use the id `{client_id}`?",
            self.closed_young
        ))
    }

    pub fn opening(&self, will: Option<Outgoing>) -> Opening {
        let compiled = &self.compiled;
        Opening {
            endpoint: compiled.broker.endpoint.clone(),
            tls: compiled.broker.tls.clone(),
            version: compiled.broker.version,
            client_id: compiled.client_ids[self.index].clone(),
            login: compiled.broker.login.clone(),
            keep_alive: compiled.broker.keep_alive,
            clean_start: compiled.session_expiry.is_zero(),
            session_expiry: compiled.session_expiry,
            receive_maximum: compiled.window,
            max_packet: compiled.max_packet,
            answered: compiled.broker.answered.clone(),
            will: will.map(|will| Will { qos: qos(&will), topic: will.topic, payload: will.payload, retain: will.retain }),
        }
    }
}

pub fn qos(outgoing: &Outgoing) -> Qos {
    Qos::from_bits(outgoing.qos).unwrap_or(Qos::AtLeastOnce)
}
