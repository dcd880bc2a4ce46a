//! What the answers share.

use crate::answers::History;
use crate::control::{Control, Refusal};
use crate::live::Hub;
use crate::supplied::{Certificates, Damage};
use axum::extract::State;
use millrace_engine::Engine;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// What every answer is made of.
pub struct Console {
    pub engine: Arc<Engine>,
    pub certificates: Certificates,
    pub damage: Damage,
    pub version: &'static str,
    pub history: Mutex<History>,
    pub control: Option<Arc<dyn Control>>,
    /// `host:port`, as Kafka Connect names a worker.
    pub worker: String,
    pub hub: Arc<Hub>,
    /// Who makes a client of Kafka to answer.
    pub asking_kafka: Arc<Semaphore>,
}

pub type Shared = State<Arc<Console>>;

impl Console {
    /// Errors: there is none.
    pub fn control(&self) -> Result<&Arc<dyn Control>, Refusal> {
        self.control.as_ref().ok_or_else(|| Refusal::wrong("this service was not made of files, and has nothing to change".to_owned()))
    }
}
