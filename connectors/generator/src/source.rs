//! The session: from the last durable number on, at the pace asked for, with faults on purpose and a setpoint that takes commands.

use crate::pace::Pace;
use crate::shape::Recipe;
use async_trait::async_trait;
use millrace_contract::{AckId, Command, CommandValue, Failure, Outcome, Source, SourceIo, Status, TagDef, TagOptions};
use millrace_kit::fit::{Fitted, Machine, fit};
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The part that vouches for every tag: the device that isn't there.
pub const DEVICE: &str = "device";
/// The tag that takes commands.
pub const SETPOINT: &str = "setpoint";

/// Position: the number of the next value, in decimal.
const NEXT: &str = "next";
/// Position: what the setpoint was last set to, in decimal.
const SET_TO: &str = "setpoint";

/// Records in a batch, at most; with documents fewer, see [`BATCH_BYTES`].
const BATCH_RECORDS: u64 = 4096;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What a generator does.
#[derive(Debug)]
pub struct CompiledSource {
    pub tags: Vec<TagDef>,
    pub recipe: Recipe,
    pub per_s: Option<f64>,
    pub bursts: Option<(Duration, u64)>,
    pub disconnect_every: Option<Duration>,
    pub count: Option<u64>,
    /// Documents of this size instead of samples.
    pub document_bytes: Option<usize>,
    /// The last tag is the setpoint.
    pub setpoint: bool,
}

pub struct Generator {
    job: Arc<CompiledSource>,
}

/// What happens next in a session.
enum Next {
    Stop,
    Disconnect,
    Command(Command),
    Fill(Batch),
}

impl Generator {
    pub fn new(job: Arc<CompiledSource>) -> Self {
        Self { job }
    }

    /// Fills the batch with the next `count` values, the last one's time being the batch's.
    fn fill(&self, batch: &mut Batch, from: u64, count: u64, step: Duration, ids: &[TagId]) {
        let step_micros = step.as_micros() as i64;
        for number in from..from + count {
            let back = (from + count - 1 - number) as i64;
            let time = Micros(batch.read_time.0 - back * step_micros);
            match self.job.document_bytes {
                Some(bytes) => self.job.recipe.document(number, time, bytes, batch),
                None => self.job.recipe.sample(number, time, ids, batch),
            }
        }
    }

    async fn set(&self, io: &SourceIo, tag: TagId, command: Command) {
        if command.tag != tag {
            command.answer.send(Outcome::Refused("only the tag `setpoint` takes commands".into()));
            return;
        }
        if command.expires < Micros::now() {
            command.answer.send(Outcome::Expired);
            return;
        }
        let number = match fit(&command.value, Machine::F64, &TagOptions::default()) {
            Ok(Fitted::F64(number)) if !matches!(command.value, CommandValue::Bool(_)) => number,
            _ => {
                command.answer.send(Outcome::Refused(format!("`setpoint` takes a number, not {:?}", command.value)));
                return;
            }
        };
        self.echo(io, tag, number, Origin::Change).await;
        command.answer.send(Outcome::Done);
    }

    async fn echo(&self, io: &SourceIo, tag: TagId, number: f64, origin: Origin) {
        let mut batch = io.batch().await;
        batch.rows.push(Row {
            time: batch.read_time,
            server_time: Micros::NONE,
            value: Value::Double(number),
            tag,
            status: StatusCode::GOOD,
            flags: Flags::new(origin, TimeSource::Device),
        });
        io.send(batch, &[(SET_TO, number.to_string().as_bytes())]).await;
    }
}

fn resumed<T: std::str::FromStr>(io: &SourceIo, key: &str) -> Result<Option<T>, Failure> {
    let Some(position) = io.resume(key) else { return Ok(None) };
    let number = std::str::from_utf8(&position).ok().and_then(|text| text.parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Failure::Blocked(format!(
            "position `{key}` of the generator is `{}`, no number; it was written by something else: rename the source",
            String::from_utf8_lossy(&position)
        ))),
    }
}

#[async_trait]
impl Source for Generator {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let job = self.job.clone();
        let mut ids = Vec::with_capacity(job.tags.len());
        for tag in &job.tags {
            ids.push(io.declare(tag.clone()).map_err(|clash| Failure::Blocked(clash.to_string()))?);
        }
        let mut next: u64 = resumed(&io, NEXT)?.unwrap_or(0);
        let end = job.count.unwrap_or(u64::MAX);
        let setpoint = if job.setpoint { ids.pop() } else { None };
        let set_to = resumed(&io, SET_TO)?.unwrap_or(0.0);

        let stopping = io.stopping();
        tokio::pin!(stopping);
        io.status("", Status::Running);
        if let Some(tag) = setpoint {
            tokio::select! {
                biased;
                () = &mut stopping => return Ok(()),
                () = self.echo(&io, tag, set_to, Origin::Initial) => {}
            }
        }
        let started = Instant::now();
        let hangs_up = tokio::time::sleep_until(started + job.disconnect_every.unwrap_or(Duration::from_secs(u64::from(u32::MAX))));
        tokio::pin!(hangs_up);
        let mut pace = Pace::new(job.per_s, job.bursts, started);
        let batch_records =
            job.document_bytes.map_or(BATCH_RECORDS, |bytes| (BATCH_BYTES / bytes.max(64)).clamp(1, BATCH_RECORDS as usize) as u64);
        let mut vouched = started;
        io.alive(DEVICE);
        let mut sent = AckId(0);
        while next < end {
            let now = Instant::now();
            if now.duration_since(vouched) >= Duration::from_secs(1) {
                io.alive(DEVICE);
                vouched = now;
            }
            let ready = async {
                if pace.due(now) == 0 {
                    tokio::time::sleep_until(pace.next(now)).await;
                } else if job.per_s.is_none() {
                    tokio::task::yield_now().await;
                }
                io.batch().await
            };
            let happened = tokio::select! {
                biased;
                () = &mut stopping => Next::Stop,
                () = &mut hangs_up => Next::Disconnect,
                command = io.command(), if setpoint.is_some() => Next::Command(command),
                batch = ready => Next::Fill(batch),
            };
            match (happened, setpoint) {
                (Next::Stop, _) => return Ok(()),
                (Next::Disconnect, _) => {
                    return Err(Failure::Reconnect("the generator hung up on purpose, as `faults.disconnect_every` says".into()));
                }
                (Next::Command(command), Some(tag)) => tokio::select! {
                    biased;
                    () = &mut stopping => return Ok(()),
                    () = self.set(&io, tag, command) => {}
                },
                (Next::Command(_), None) => {}
                (Next::Fill(mut batch), _) => {
                    let count = pace.due(Instant::now()).min(batch_records).min(end - next);
                    self.fill(&mut batch, next, count, pace.step(), &ids);
                    pace.take(count);
                    next += count;
                    let mut digits = [0; 20];
                    sent = io.send(batch, &[(NEXT, decimal(next, &mut digits))]).await;
                }
            }
        }

        // A finite generator is finished when its last value is safe.
        let durable = async {
            if sent > AckId(0) {
                io.durable(AckId(sent.0 - 1)).await;
            }
        };
        tokio::select! {
            biased;
            () = &mut stopping => Ok(()),
            () = durable => Err(Failure::Stopped),
        }
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn decimals_read_back() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            assert_eq!(super::decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
