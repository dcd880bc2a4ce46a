//! What the answers share.

use crate::answers::History;
use crate::control::{Control, Refusal};
use crate::live::Hub;
use crate::metrics::Family;
use crate::supplied::{Certificates, Damage};
use axum::body::Bytes;
use axum::extract::State;
use millrace_engine::Engine;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// Metrics of whoever has some.
pub type More = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// What every answer is made of.
pub struct Console {
    pub engine: Arc<Engine>,
    pub certificates: Certificates,
    pub damage: Damage,
    pub version: &'static str,
    pub history: Mutex<History>,
    pub control: Option<Arc<dyn Control>>,
    pub more: Vec<More>,
    /// `host:port`, as Kafka Connect names a worker.
    pub worker: String,
    pub hub: Arc<Hub>,
    /// Who makes a client of Kafka to answer.
    pub asking_kafka: Arc<Semaphore>,
    /// The status as an event, once a second for all who watch.
    pub pulse: watch::Sender<Bytes>,
}

pub type Shared = State<Arc<Console>>;

impl Console {
    /// Errors: there is none.
    pub fn control(&self) -> Result<&Arc<dyn Control>, Refusal> {
        self.control.as_ref().ok_or_else(|| Refusal::wrong("this service was not made of files, and has nothing to change".to_owned()))
    }
}
