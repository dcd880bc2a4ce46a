//! Commands and acknowledgements carried out: each from stage to stage ([`crate::urgent`]), by the answers of the line.

use crate::bus::Bus;
use crate::decode;
use crate::line::Outcome as Answered;
use crate::pdu::{Exception, Read};
use crate::planner::Block;
use crate::point::piece;
use crate::urgent::{By, Stage, Urgent};
use crate::write::{self, Order};
use millrace_contract::{Command, CommandValue, Condition, Outcome};
use millrace_kit::trigger;
use millrace_schemas::{Batch, Micros, StatusCode, Value};

impl Bus<'_> {
    /// A command came.
    pub fn commanded(&mut self, command: Command) {
        let Some(tag) = self.ids.iter().position(|id| *id == command.tag) else {
            command.answer.send(Outcome::Refused("this tag is no register of its own".into()));
            return;
        };
        let mut conditions = Vec::with_capacity(command.conditions.len());
        for condition in command.conditions {
            let Some(tag) = self.ids.iter().position(|id| *id == condition.tag) else {
                return command
                    .answer
                    .send(Outcome::Refused(format!("{} is no register of its own: it can't be read before the write", condition.name)));
            };
            conditions.push((tag, condition));
        }
        self.write(tag, &command.value, conditions, Some(command.expires), By::Command(command.answer));
    }

    /// A trigger is to be acknowledged.
    pub fn acknowledge(&mut self, ack: trigger::Write) {
        let value = ack.value.clone();
        self.write(ack.tag, &value, Vec::new(), None, By::Trigger(ack));
    }

    fn unit_of(&self, tag: usize) -> usize {
        let group = self.source.polled.tags[tag].group;
        self.source.jobs.iter().find(|job| job.groups.contains(&group)).map_or(0, |job| job.unit)
    }

    fn write(&mut self, tag: usize, value: &CommandValue, conditions: Vec<(usize, Condition)>, expires: Option<Micros>, by: By) {
        let unit = self.unit_of(tag);
        let Some(permission) = self.permission else {
            return self
                .finish_urgent(by, Outcome::Refused("writes are forbidden: the local file has no `floor: {writes: allowed}`".into()));
        };
        let options = &self.source.polled.tags[tag].def.options;
        let stage = match write::order(permission, &self.points[tag], &self.source.units[unit], options, value) {
            Ok(Order::Write(write)) => Stage::Writing(write),
            Ok(Order::Change { read, mask, bits }) => Stage::Changing { read, mask, bits },
            Err(refused) => return self.finish_urgent(by, Outcome::Refused(refused.to_string())),
        };
        let stage = self.checking(conditions, stage);
        self.urgent.push_back((self.unit_at(tag, &stage), Box::new(Urgent { tag, stage, expires, by })));
    }

    /// The stage that reads the last condition; without any, what comes then.
    fn checking(&self, conditions: Vec<(usize, Condition)>, then: Stage) -> Stage {
        let Some((tag, _)) = conditions.last() else { return then };
        let register_bytes = self.source.units[self.unit_of(*tag)].limits.register_bytes;
        let read = Block::of(vec![piece(&self.source.polled, *tag)], register_bytes).read;
        Stage::Checking { read, conditions, then: Box::new(then) }
    }

    /// The unit that a stage of writing a tag talks to: what must hold may be another device's.
    fn unit_at(&self, tag: usize, stage: &Stage) -> usize {
        match stage {
            Stage::Checking { conditions, .. } => self.unit_of(conditions.last().map_or(tag, |(tag, _)| *tag)),
            _ => self.unit_of(tag),
        }
    }

    /// An answer to something urgent.
    pub fn on_urgent(&mut self, unit: usize, urgent: Urgent, answered: Answered, data: &[u8]) {
        let Urgent { tag, stage, by, expires } = urgent;
        // What is read before the write may take its time; once written, it has no expiry.
        let expires = expires.filter(|_| matches!(stage, Stage::Checking { .. } | Stage::Changing { .. }));
        match self.next_stage(unit, tag, stage, answered, data) {
            // Nothing comes between its requests.
            Ok(stage) => self.urgent.push_front((self.unit_at(tag, &stage), Box::new(Urgent { tag, stage, expires, by }))),
            Err(outcome) => self.finish_urgent(by, outcome),
        }
    }

    /// What follows an answer: the next request, or (`Err`) the outcome.
    fn next_stage(&self, unit: usize, tag: usize, stage: Stage, answered: Answered, data: &[u8]) -> Result<Stage, Outcome> {
        let address = &self.source.polled.tags[tag].def.address;
        let point = &self.points[tag];
        Err(match (stage, answered) {
            (Stage::Checking { read, mut conditions, then }, Answered::Data) => {
                let Some((of, condition)) = conditions.pop() else { return Ok(*then) };
                let mut texts = Batch::new();
                let read = decode::value(&self.points[of], &piece(&self.source.polled, of), &read, data, &mut texts);
                let (value, status) = read.map_or_else(|status| (Value::Null, status), |value| (value, StatusCode::GOOD));
                match condition.check(value, status, &texts.heap, &self.source.polled.tags[of].def.options) {
                    Ok(()) => return Ok(self.checking(conditions, *then)),
                    Err(why) => Outcome::Refused(why.into()),
                }
            }
            (Stage::Checking { conditions, .. }, answered) => {
                let why = match answered {
                    Answered::Refused(exception) => exception.to_string(),
                    Answered::Trouble(trouble) => trouble.to_string(),
                    Answered::Data => String::new(),
                };
                let name = conditions.last().map_or("", |(_, condition)| condition.name.as_str());
                Outcome::Failed(format!("{name} can't be read before the write: {why}; nothing was written"))
            }
            (Stage::Changing { read, mask, bits }, Answered::Data) => {
                let Some(permission) = self.permission else { return Err(Outcome::Refused("writes are forbidden".into())) };
                match write::changed(permission, &read, mask, bits, data, &self.source.units[unit]) {
                    Ok(write) => return Ok(Stage::Writing(write)),
                    Err(refused) => Outcome::Refused(refused.to_string()),
                }
            }
            (Stage::Writing(write), Answered::Data) if point.read_back => {
                let register_bytes = self.source.units[unit].limits.register_bytes;
                let read = Read { table: point.table, start: point.start, count: point.count, register_bytes };
                return Ok(Stage::ReadingBack { read, write });
            }
            (Stage::Writing(_), Answered::Data) => Outcome::Done,
            (Stage::ReadingBack { write, .. }, Answered::Data) if write::is_taken(&write, data) => Outcome::Done,
            (Stage::ReadingBack { write, .. }, Answered::Data) => {
                let wrote = write::written_bytes(&write).map_or_else(|| format!("{write:?}"), |bytes| format!("{bytes:02X?}"));
                let why = "a key switch, a mode or a limit of the device?";
                Outcome::Failed(format!("{address} was written with {wrote} and confirmed, but reads {data:02X?}; {why}"))
            }
            (Stage::Writing(_), Answered::Refused(Exception::ACKNOWLEDGE)) => Outcome::Unknown,
            (_, Answered::Refused(exception)) => Outcome::Failed(format!("{address}: {exception}")),
            (Stage::Changing { .. }, Answered::Trouble(trouble)) => {
                Outcome::Failed(format!("{address} can't be read before it is changed: {trouble}"))
            }
            (Stage::Writing(_) | Stage::ReadingBack { .. }, Answered::Trouble(trouble)) => {
                tracing::warn!(%address, %trouble, "whether a command was carried out is not known");
                Outcome::Unknown
            }
        })
    }

    /// The connection closed while it was under way.
    pub fn unknown(&mut self, urgent: Urgent) {
        match urgent.stage {
            Stage::Checking { .. } | Stage::Changing { .. } => self.not_done(urgent, "the connection closed before it was written"),
            Stage::Writing(_) | Stage::ReadingBack { .. } => self.finish_urgent(urgent.by, Outcome::Unknown),
        }
    }

    /// It was never sent.
    pub fn not_done(&mut self, urgent: Urgent, why: &str) {
        self.finish_urgent(urgent.by, Outcome::Failed(why.into()));
    }

    pub fn expire(&mut self, urgent: Urgent) {
        self.finish_urgent(urgent.by, Outcome::Expired);
    }

    fn finish_urgent(&mut self, by: By, outcome: Outcome) {
        match by {
            By::Command(answer) => answer.send(outcome),
            By::Trigger(write) => {
                let result = match &outcome {
                    Outcome::Done | Outcome::Returned(_) => Ok(()),
                    Outcome::Refused(why) | Outcome::Failed(why) => Err(why.as_str()),
                    Outcome::Expired | Outcome::Unknown => Err("no answer to the write"),
                };
                self.events.triggers.written(&write, result, self.io);
            }
        }
    }
}
