//! The plugin `modbus`, and its session.

use crate::bus::Bus;
use crate::compiled::{self, CompiledSource};
use crate::config::SourceConfig;
use crate::decode::Counters;
use crate::events::Events;
use crate::line::Line;
use crate::plan;
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::{BrowseFn, Plan};
use millrace_contract::{Compiled, Context, Failure, Guarantee, Model, Plugin, Role, Source, SourceIo};
use millrace_kit::Triggers;
use millrace_kit::trigger::Before;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// Reads Modbus devices.
pub struct ModbusSource;

impl Plugin for ModbusSource {
    const TYPE: &'static str = "modbus";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let source = compiled::compile(&config, context, problems)?;
        let plan = plan::plan(&source, context, problems)?;
        Some(Box::new(Ready { model: source.model(), source: Arc::new(source), plan }))
    }

    fn probe() -> Option<BrowseFn> {
        Some(crate::probe::probe)
    }
}

struct Ready {
    source: Arc<CompiledSource>,
    model: Model,
    plan: Plan,
}

impl Compiled for Ready {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Session { source: self.source.clone(), events: None, counters: None, line: None }))
    }

    fn describes(&self) -> bool {
        self.source.polled.describes()
    }

    fn guarantee(&self) -> Guarantee {
        let has_acks = self.source.polled.groups.iter().any(|group| group.trigger.as_ref().is_some_and(|trigger| trigger.ack.is_some()));
        let only_acks = self.source.polled.groups.iter().all(|group| group.trigger.is_some());
        if has_acks && only_acks {
            return Guarantee::AtLeastOnce("an event is acknowledged to the device after the log is synced".into());
        }
        Guarantee::AtMostOnce("polled: what changes between two polls, or while nobody polls, is not seen".into())
    }

    fn reads_conditions(&self) -> bool {
        true
    }

    fn in_place(&self) -> &'static [&'static str] {
        &["groups", "devices"]
    }

    fn hand_to(&self, running: &mut dyn Source) -> bool {
        let Some(running) = (running as &mut dyn Any).downcast_mut::<Session>() else { return false };
        (running.source, running.events, running.counters) = (self.source.clone(), None, None);
        true
    }

    fn plan(&self) -> Plan {
        self.plan.clone()
    }
}

struct Session {
    source: Arc<CompiledSource>,
    /// Triggers outlive a session: what was recorded, what waits for the log.
    events: Option<Events>,
    /// So do counters: one that went back while nobody was connected went back all the same.
    counters: Option<Counters>,
    /// What a session handed over.
    line: Option<Line>,
}

/// How long the last rows may take into the log when the engine stops.
const LAST_ROWS: Duration = Duration::from_secs(1);

#[async_trait]
impl Source for Session {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        if io.is_stopping() {
            return Ok(());
        }
        let ids = self.source.polled.declare(&io);
        let source = &*self.source;
        let events = self.events.get_or_insert_with(|| Events::of(Triggers::of(&source.polled, 0..source.polled.groups.len(), &ids, &io)));
        events.triggers.connected(Before::Unknown);
        let counters = self.counters.get_or_insert_with(|| Counters::of(source.declare_went_back(&io)));
        let mut bus = Bus::new(source, &io, ids, events, counters);
        bus.line = self.line.take();
        tokio::select! {
            biased;
            () = io.closing() => {}
            ended = bus.run() => {
                self.line = bus.line.take();
                return ended;
            }
        }
        let _ = tokio::time::timeout(LAST_ROWS, bus.close()).await;
        Ok(())
    }
}
