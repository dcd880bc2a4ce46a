//! The MQTT source: what it compiles to, what it promises, and its connections.

use crate::compile::Compiled;
use crate::config::SourceConfig;
use crate::connection::Connection;
use crate::intake::Intake;
use crate::kept::FILTERS;
use crate::packet::{Publish, Qos, Version};
use crate::payload::Decode;
use async_trait::async_trait;
use millrace_config::{Problems, Reason};
use millrace_contract::plugin::{self, BrowseFn};
use millrace_contract::{Context, Failure, Guarantee, Late, Model, Plan, Plugin, Role, Source, SourceIo};
use millrace_kit::connections::Connections;
use millrace_schemas::Batch;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `type: mqtt` among the sources.
pub struct MqttSource;

impl Plugin for MqttSource {
    const TYPE: &'static str = "mqtt";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn plugin::Compiled>> {
        let compiled = config.own.compile(&config.shared, context, problems)?;
        Some(Box::new(CompiledSource(Arc::new(compiled))))
    }

    fn browse() -> Option<BrowseFn> {
        Some(crate::browse::browse)
    }
}

struct CompiledSource(Arc<Compiled>);

impl plugin::Compiled for CompiledSource {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Mqtt { compiled: self.0.clone(), connections: Connections::default(), up: Arc::default(), has_looked_back: false }))
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Guarantee {
        let weakest = self.0.routes.iter().map(|route| route.qos).min().unwrap_or(Qos::AtMostOnce);
        if self.0.session_expiry.is_zero() {
            return Guarantee::AtMostOnce(
                "no session is kept (`session_expiry: 0s`): what is published while this source is away is gone".into(),
            );
        }
        match weakest {
            Qos::AtMostOnce => Guarantee::AtMostOnce("QoS 0: the broker sends once and forgets".into()),
            Qos::AtLeastOnce => Guarantee::AtLeastOnce("QoS 1: the broker sends again what was not acknowledged".into()),
            Qos::ExactlyOnce => {
                Guarantee::ExactlyOnce("QoS 2 with a kept session: what is recorded and not released is part of the position".into())
            }
        }
    }

    fn decode_again(&self, late: &Late<'_>, io: &SourceIo, batch: &mut Batch) -> Option<Result<(), Reason>> {
        let publish = Publish::plain(late.header("mqtt.topic")?, late.payload, false);
        let mut intake = Intake::new(self.0.routes.clone(), self.0.max_tags, None);
        Some(intake.take_again(late.route, &publish, batch, io).map_err(Reason::from))
    }

    fn in_place(&self) -> &'static [&'static str] {
        // A Sparkplug host keeps births and sequences by what it subscribes to.
        if self.0.host.is_some() { &[] } else { &["subscribe"] }
    }

    fn hand_to(&self, running: &mut dyn Source) -> bool {
        let Some(running) = (running as &mut dyn Any).downcast_mut::<Mqtt>() else { return false };
        if running.compiled.host.is_some() || self.0.host.is_some() {
            return false;
        }
        running.compiled = self.0.clone();
        running.connections.resting().for_each(|connection| connection.change(self.0.clone()));
        true
    }

    fn longest(&self) -> Option<u64> {
        Some(self.0.max_packet as u64)
    }

    fn plan(&self) -> Plan {
        let compiled = &self.0;
        let version = match compiled.broker.version {
            Version::V4 => "3.1.1",
            Version::V5 => "5",
        };
        let mut lines = vec![format!("mqtt {version}, client id {}", compiled.client_ids.join(", "))];
        for (route, model) in compiled.routes.iter().zip(&compiled.model.routes) {
            let share = compiled.share.as_ref().map_or_else(String::new, |share| format!("$share/{share}/"));
            let what = match &route.decode {
                Decode::Document(_) => "documents".to_owned(),
                Decode::Readings(_) | Decode::Senml(_) => "readings, each with the tag that it names,".to_owned(),
                Decode::Samples(samples) => format!("{} tags of each topic", samples.items.len()),
                Decode::Value(_) => "a tag of each topic".to_owned(),
                Decode::Sparkplug => "Sparkplug metrics".to_owned(),
            };
            lines.push(format!("subscribe {share}{} at QoS {}: {what} to {}", route.filter, route.qos as u8, model.topic));
        }
        if compiled.routes.iter().any(|route| route.command.is_some()) {
            lines.push(match compiled.writes_allowed {
                true => "publishes commands that a sink with `source:` allows".into(),
                false => "publishes no commands: writes are forbidden".into(),
            });
        }
        if let Some(host) = &compiled.host {
            lines.push(match (host.passive, host.primary) {
                (true, _) => "Sparkplug host, passive: publishes nothing".into(),
                (false, true) => {
                    format!("Sparkplug primary host {}: publishes STATE and rebirth requests", host.id.as_deref().unwrap_or(""))
                }
                (false, false) => "Sparkplug host: publishes rebirth requests".into(),
            });
        }
        Plan { endpoint: compiled.broker.endpoint.to_string(), lines, rate: None }
    }
}

struct Mqtt {
    compiled: Arc<Compiled>,
    connections: Connections<Connection>,
    /// How many of them have all their filters.
    up: Arc<AtomicUsize>,
    has_looked_back: bool,
}

impl Mqtt {
    /// Says once which sessions of earlier configurations the broker may still keep: with a changed `client_id` or fewer `connections`.
    fn look_back(&mut self, io: &SourceIo) {
        if std::mem::replace(&mut self.has_looked_back, true) {
            return;
        }
        for (key, _) in io.positions(FILTERS) {
            let client_id = &key[FILTERS.len()..];
            if !self.compiled.client_ids.iter().any(|id| id == client_id) {
                tracing::warn!(
                    endpoint = %self.compiled.broker.endpoint,
                    client_id,
                    "the broker may still keep the session of an earlier client id, and the messages that came for it; to take them in, start once \
                     with `client_id: {client_id}`; to give them up, start so once more with `session_expiry: 0s`, or remove the session at the broker"
                );
            }
        }
    }
}

#[async_trait]
impl Source for Mqtt {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        self.look_back(&io);
        self.up.store(0, Ordering::SeqCst);
        let make = |index| Connection::new(self.compiled.clone(), index, self.up.clone());
        self.connections.run(self.compiled.client_ids.len(), &io, make).await?;
        Err(Failure::Stopped)
    }
}
