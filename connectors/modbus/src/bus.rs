//! The conversation on one line: which request goes next, what its answer means, and when what was read goes to the log.
//!
//! ```text
//! cycles due ──> a queue per unit ──┐
//! commands, acknowledgements ───────┴─> the line ──answer──> rows of the job ──job done──> the batch ──> log
//!     (before any read)                   │
//!                                         └─ refused: parted (unit.rs) · silent: breaker · closed: opened again, reads asked once more
//! ```
//!
//! - Units take turns, one request each, those that answer before one that doesn't; a silent unit costs its own timeout only.
//! - A job's rows go into the batch together, once all its requests are done: a scan is never torn over two batches.
//! - What is sent but not answered when a connection closes is asked again once if it was a read; a write is never repeated.
//! - A connection that a device closes while it rests, or after each answer, is opened again quietly.
//!
//! Nothing is written here: `write` makes writes, with a permission that only the file gives.

use crate::compiled::CompiledSource;
use crate::decode::{Counters, status_of};
use crate::endpoint::open;
use crate::events::Events;
use crate::line::{Event, Line, Lost, Outcome, Trouble};
use crate::pdu::Request;
use crate::planner::Block;
use crate::point::Point;
use crate::unit::{UnitState, Work};
use crate::urgent::Urgent;
use crate::write::Permission;
use millrace_contract::{Failure, Loss, SourceIo, Status};
use millrace_kit::breaker::Permit;
use millrace_kit::polled::push_bad;
use millrace_kit::trigger::Before;
use millrace_kit::{Cycles, Due};
use millrace_schemas::{Batch, Micros, Row, Span, StatusCode, TagId, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A batch is sent when it holds so many rows, or is so old.
const BATCH_ROWS: usize = 4_096;
const BATCH_AGE: Duration = Duration::from_millis(50);
/// Timeouts in a row, with no answer from anybody, after which the connection is thought dead.
const TIMEOUTS_MOST: u32 = 3;

/// A job while a session lives.
pub struct JobState {
    pub blocks: Vec<Arc<Block>>,
    /// Requests of the running cycle that are not done.
    pub outstanding: usize,
    /// The rows of the running cycle.
    pub rows: Batch,
    /// Something was answered in this cycle.
    pub is_alive: bool,
}

/// What waits for an answer.
pub enum Waiting {
    Read { unit: usize, work: Work },
    Urgent { unit: usize, urgent: Box<Urgent> },
}

/// One session on one line.
pub struct Bus<'a> {
    pub source: &'a CompiledSource,
    pub io: &'a SourceIo,
    pub ids: Vec<TagId>,
    pub points: Vec<Point>,
    pub units: Vec<UnitState>,
    pub jobs: Vec<JobState>,
    pub events: &'a mut Events,
    pub permission: Option<Permission>,
    pub urgent: VecDeque<(usize, Box<Urgent>)>,
    /// Reads at which the device closed the connection twice.
    closed: Vec<(usize, Work)>,
    pub line: Option<Line>,
    waiting: Vec<(u64, Waiting)>,
    next_token: u64,
    /// Whose turn it is.
    turn: usize,
    pub counters: &'a mut Counters,
    pub batch: Option<Batch>,
    batch_since: Instant,
    batch_jobs: Vec<usize>,
    pub learnt: Vec<usize>,
    timeouts: u32,
    is_running: bool,
    pub has_refusals: Vec<bool>,
}

impl<'a> Bus<'a> {
    pub fn new(source: &'a CompiledSource, io: &'a SourceIo, ids: Vec<TagId>, events: &'a mut Events, counters: &'a mut Counters) -> Self {
        let units: Vec<_> = source.units.iter().map(|unit| UnitState::of(unit, io)).collect();
        let job = |job: &crate::compiled::Job| JobState {
            blocks: units[job.unit].plan(job, &source.units[job.unit]),
            outstanding: 0,
            rows: Batch::new(),
            is_alive: false,
        };
        Self {
            jobs: source.jobs.iter().map(job).collect(),
            points: source.polled.tags.iter().map(|tag| tag.address.clone()).collect(),
            counters,
            permission: Permission::of(source.writes_allowed),
            has_refusals: vec![false; units.len()],
            source,
            io,
            ids,
            units,
            events,
            urgent: VecDeque::new(),
            closed: Vec::new(),
            line: None,
            waiting: Vec::new(),
            next_token: 0,
            turn: 0,
            batch: None,
            batch_since: Instant::now(),
            batch_jobs: Vec::new(),
            learnt: Vec::new(),
            timeouts: 0,
            is_running: false,
        }
    }

    /// Runs until the line fails, or is to be handed over and nothing is under way on it. Dropped when the engine stops.
    pub async fn run(&mut self) -> Result<(), Failure> {
        let ended = self.talk().await;
        if ended.is_err() {
            self.line = None;
            self.give_up().await;
        }
        ended
    }

    async fn talk(&mut self) -> Result<(), Failure> {
        if self.line.is_none() {
            self.open().await?;
        }
        let scheduled: Vec<usize> = (0..self.source.jobs.len()).filter(|job| !self.source.jobs[*job].is_triggered).collect();
        let mut cycles = Cycles::new(scheduled.iter().map(|job| (self.source.jobs[*job].every, self.source.jobs[*job].align)));
        let io = self.io;
        let mut command = Box::pin(io.command());
        let mut is_ending = false;
        loop {
            self.send_what_may_go().await?;
            while let Some((unit, work)) = self.closed.pop() {
                self.on_read(unit, work, Outcome::Trouble(Trouble::Closed)).await;
            }
            if self.is_batch_due() {
                self.flush().await;
                continue;
            }
            if is_ending && self.is_idle() && self.urgent.is_empty() && !self.events.are_open() {
                return Ok(());
            }
            let wake = self.wake();
            let takes_commands = self.permission.is_some() && self.urgent.is_empty() && !is_ending;
            tokio::select! {
                () = io.stopping(), if !is_ending => is_ending = true,
                event = next(&mut self.line) => self.on_event(event).await?,
                command_in = &mut command, if takes_commands => {
                    command = Box::pin(io.command());
                    self.commanded(command_in);
                }
                write = self.events.next_write(io), if takes_commands => self.acknowledge(write),
                due = cycles.due(), if !is_ending => self.on_due(&scheduled, &due).await,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// When to look again though nothing happened: a pause that ends, a batch that has waited long enough.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3_600);
        let send = match &self.line {
            Some(line) if self.has_work() => line.ready_at(),
            _ => None,
        };
        let flush = self.batch.as_ref().filter(|batch| !batch.is_empty() && !self.events.are_open()).map(|_| self.batch_since + BATCH_AGE);
        send.into_iter().chain(flush).min().unwrap_or(far)
    }

    fn has_work(&self) -> bool {
        !self.urgent.is_empty() || (0..self.units.len()).any(|unit| self.may_send(unit))
    }

    fn may_send(&self, unit: usize) -> bool {
        // A unit that is alone on its line may be asked several things at once, as far as the line allows it.
        let most = if self.units.len() == 1 && !self.units[unit].breaker.is_open() { usize::MAX } else { 1 };
        !self.units[unit].queue.is_empty() && self.units[unit].in_flight < most
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let stream = open(&self.source.endpoint, self.source.connect_timeout).await.map_err(|why| Failure::Reconnect(why.into()))?;
        self.line = Some(Line::new(stream, &self.source.endpoint, self.source.line.clone()));
        self.events.triggers.connected(Before::Values);
        Ok(())
    }

    /// Sends as long as the line takes something and there is something to send.
    async fn send_what_may_go(&mut self) -> Result<(), Failure> {
        if self.source.close_after_cycle
            && self.is_idle()
            && self.urgent.is_empty()
            && self.line.as_ref().is_some_and(|line| line.answers > 0)
        {
            self.line = None;
        }
        loop {
            if self.line.is_none() {
                if !self.has_work() {
                    return Ok(());
                }
                self.open().await?;
            }
            let is_ready = self.line.as_ref().and_then(Line::ready_at).is_some_and(|at| at <= Instant::now());
            if !is_ready {
                return Ok(());
            }
            let Some((unit, request, waiting)) = self.take_work() else { return Ok(()) };
            let Some(line) = &mut self.line else { return Ok(()) };
            let token = self.next_token;
            self.next_token += 1;
            self.waiting.push((token, waiting));
            self.units[unit].in_flight += 1;
            let of = &self.source.units[unit];
            if let Err(lost) = line.send(token, of.id, of.any_unit, request).await {
                self.on_lost(lost)?;
            }
        }
    }

    /// The next request: commands and acknowledgements first, then the units in turn, those whose breaker is open last.
    fn take_work(&mut self) -> Option<(usize, Request, Waiting)> {
        while let Some((unit, urgent)) = self.urgent.pop_front() {
            match urgent.request() {
                Some(request) => return Some((unit, request, Waiting::Urgent { unit, urgent })),
                None => self.expire(*urgent),
            }
        }
        let count = self.units.len();
        for wants_open in [false, true] {
            for step in 0..count {
                let unit = (self.turn + step) % count;
                if self.may_send(unit) && self.units[unit].breaker.is_open() == wants_open {
                    self.turn = (unit + 1) % count;
                    let work = self.units[unit].queue.pop_front()?;
                    let request = Request::Read(work.block.read);
                    return Some((unit, request, Waiting::Read { unit, work }));
                }
            }
        }
        None
    }

    async fn on_due(&mut self, scheduled: &[usize], due: &Due) {
        due.count_skipped(self.io, |slot| self.source.jobs[scheduled[slot]].pieces.len());
        for job in due.groups.iter().map(|slot| scheduled[*slot]) {
            self.begin(job).await;
        }
    }

    /// Begins a cycle of a job.
    async fn begin(&mut self, job: usize) {
        let of = &self.source.jobs[job];
        let unit = of.unit;
        if self.jobs[job].outstanding > 0 {
            self.io.lost(Loss::PollSkipped, of.pieces.len() as u64);
            return;
        }
        let permit = self.units[unit].breaker.permit(Instant::now());
        // One unit that may not answer at a time: each costs the others a timeout.
        let others_probe = self
            .units
            .iter()
            .enumerate()
            .any(|(other, state)| other != unit && state.breaker.is_open() && (!state.queue.is_empty() || state.in_flight > 0));
        let may_go = permit == Permit::Go || permit == Permit::Probe && !others_probe && self.units[unit].queue.is_empty();
        if !may_go {
            self.io.lost(Loss::PollSkipped, of.pieces.len() as u64);
            let tags: Vec<TagId> = of.pieces.iter().map(|piece| self.ids[piece.tag as usize]).collect();
            let batch = self.batch().await;
            push_bad(&tags, StatusCode::BAD_NO_COMMUNICATION, batch);
            return;
        }
        self.enqueue(job);
        if permit == Permit::Probe {
            // The smallest first: it alone is lost if the unit is still silent.
            self.units[unit].queue.make_contiguous().sort_by_key(|work| work.block.read.count);
        }
        if self.jobs[job].outstanding == 0 {
            self.finish(job).await;
        }
    }

    /// Puts a job's requests into its unit's queue, but those that are refused as they stand.
    pub fn enqueue(&mut self, job: usize) {
        let unit = self.source.jobs[job].unit;
        let (units, state) = (&mut self.units, &mut self.jobs[job]);
        state.is_alive = false;
        state.rows.read_time = Micros::now();
        for block in &state.blocks {
            match units[unit].resting(block) {
                None => {
                    units[unit].queue.push_back(Work { job, block: block.clone(), attempt: 0, part_of: None, is_trigger: false });
                    state.outstanding += 1;
                }
                Some(exception) => bad_rows(&self.ids, block, status_of(exception), &mut state.rows),
            }
        }
    }

    async fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        let (token, outcome) = match event {
            Event::Answer { token, outcome } => (token, outcome),
            Event::Silent => return Ok(()),
            Event::Lost(lost) => return self.on_lost(lost),
        };
        let Some(place) = self.waiting.iter().position(|(waiting, _)| *waiting == token) else { return Ok(()) };
        let (_, waiting) = self.waiting.swap_remove(place);
        let is_answer = !matches!(outcome, Outcome::Trouble(Trouble::Timeout(_) | Trouble::Cut(_) | Trouble::Checksum));
        self.timeouts = if is_answer { 0 } else { self.timeouts + 1 };
        if is_answer && !std::mem::replace(&mut self.is_running, true) {
            self.io.status("", Status::Running);
        }
        let late = self.line.as_mut().map_or(0, |line| std::mem::take(&mut line.counters.late));
        if late > 0 {
            self.io.lost(Loss::Other("late_answer"), late);
        }
        match waiting {
            Waiting::Read { unit, work } => {
                self.units[unit].in_flight -= 1;
                self.on_read(unit, work, outcome).await;
            }
            Waiting::Urgent { unit, urgent } => {
                self.units[unit].in_flight -= 1;
                let data = self.line.as_ref().map_or(Vec::new(), |line| line.data().to_vec());
                self.on_urgent(unit, *urgent, outcome, &data);
            }
        }
        self.check_line()
    }

    /// After a timeout: whether the line is still good.
    fn check_line(&mut self) -> Result<(), Failure> {
        let Some(line) = &self.line else { return Ok(()) };
        let everybody = u32::try_from(self.units.len()).unwrap_or(u32::MAX).max(TIMEOUTS_MOST);
        if self.timeouts >= everybody {
            if line.answers == 0 {
                return Err(Failure::Reconnect(format!("no device answers at {}", self.source.endpoint)));
            }
            tracing::info!(endpoint = %self.source.endpoint, "nobody answers any more; connecting anew");
            return self.on_lost(Lost::Resync);
        }
        if line.must_reopen() { self.on_lost(Lost::Resync) } else { Ok(()) }
    }

    /// A request of a job is done.
    pub async fn done(&mut self, job: usize) {
        self.jobs[job].outstanding = self.jobs[job].outstanding.saturating_sub(1);
        let unit = self.source.jobs[job].unit;
        for (index, of) in self.source.jobs.iter().enumerate() {
            // A breaker that opened ended the unit's other jobs, too.
            let is_over = index == job || (!self.jobs[index].rows.is_empty() && of.unit == unit);
            if is_over && self.jobs[index].outstanding == 0 {
                self.finish(index).await;
            }
        }
    }

    /// All requests of a cycle are done: its rows go into the batch.
    async fn finish(&mut self, job: usize) {
        if self.source.jobs[job].is_triggered {
            return self.end_event(job).await;
        }
        if self.batch_jobs.contains(&job) && !self.events.are_open() {
            self.flush().await;
        }
        self.batch().await;
        let Some(batch) = &mut self.batch else { return };
        let first = batch.rows.len();
        let rows = &mut self.jobs[job].rows;
        batch.read_time = Micros::now();
        append(batch, rows);
        self.batch_jobs.push(job);
        if self.jobs[job].is_alive {
            for group in &self.source.jobs[job].groups {
                self.io.alive(&self.source.polled.groups[*group].part);
            }
        }
        if let Some(batch) = &self.batch {
            let fired = self.events.triggers.fired(batch, first);
            for event in fired {
                self.begin_event(event);
            }
        }
    }

    /// The batch being filled; waits while the log is full.
    pub async fn batch(&mut self) -> &mut Batch {
        if self.batch.is_none() {
            self.batch_since = Instant::now();
            self.batch_jobs.clear();
            let batch = self.io.batch().await;
            self.batch = Some(batch);
        }
        self.batch.get_or_insert_default()
    }

    fn is_batch_due(&self) -> bool {
        let Some(batch) = &self.batch else { return !self.learnt.is_empty() && self.is_idle() };
        if self.events.are_open() {
            return false;
        }
        batch.len() >= BATCH_ROWS || self.is_idle() || (!batch.is_empty() && self.batch_since.elapsed() >= BATCH_AGE)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.units.iter().all(|unit| unit.queue.is_empty())
    }

    /// Sends the batch, with what was learnt and which events it records.
    pub async fn flush(&mut self) {
        let learnt: Vec<_> = std::mem::take(&mut self.learnt)
            .into_iter()
            .map(|unit| (self.source.units[unit].position.as_str(), self.units[unit].cuts.to_text().into_bytes()))
            .collect();
        self.batch().await;
        let Some(batch) = self.batch.take() else { return };
        let mut moved: Vec<(&str, &[u8])> = learnt.iter().map(|(key, value)| (*key, value.as_slice())).collect();
        if self.events.triggers.has_recorded() {
            moved.extend(self.events.triggers.moved());
        }
        let id = self.io.send(batch, &moved).await;
        self.events.triggers.sent(id, self.io);
    }

    /// The connection is gone. Reads are asked again, once; whether a write was carried out nobody knows.
    fn on_lost(&mut self, lost: Lost) -> Result<(), Failure> {
        let Some(mut line) = self.line.take() else { return Ok(()) };
        let tokens = line.pending_tokens();
        // Whoever closes before it has answered anything wants no connection, unless it is at a request that made it close before.
        let mut is_harmless = matches!(lost, Lost::Closed | Lost::Resync) && (line.answers > 0 || tokens.is_empty());
        for token in tokens {
            let Some(place) = self.waiting.iter().position(|(waiting, _)| *waiting == token) else { continue };
            match self.waiting.swap_remove(place).1 {
                Waiting::Read { unit, work } => {
                    self.units[unit].in_flight -= 1;
                    if work.attempt == 0 {
                        self.units[unit].queue.push_front(Work { attempt: 1, ..work });
                    } else {
                        is_harmless |= lost == Lost::Closed;
                        self.closed.push((unit, work));
                    }
                }
                Waiting::Urgent { unit, urgent } => {
                    self.units[unit].in_flight -= 1;
                    self.unknown(*urgent);
                }
            }
        }
        if is_harmless {
            tracing::debug!(endpoint = %self.source.endpoint, %lost, "opened again when it is needed");
            return Ok(());
        }
        Err(Failure::Reconnect(format!("{}: {lost}", self.source.endpoint)))
    }

    /// The engine stops: what was read is sent.
    pub async fn close(&mut self) {
        for event in self.events.close() {
            self.events.triggers.unread(&event);
        }
        if self.batch.as_ref().is_some_and(|batch| !batch.is_empty()) {
            self.flush().await;
        }
    }

    /// The session ends: what was read is sent, and every tag is bad until it is read again (the engine holds that back for `bad_after`).
    async fn give_up(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            if let Waiting::Urgent { urgent, .. } = waiting {
                self.unknown(*urgent);
            }
        }
        for (_, urgent) in std::mem::take(&mut self.urgent) {
            self.not_done(*urgent, "the connection broke before it was sent");
        }
        for event in self.events.close() {
            self.events.triggers.unread(&event);
        }
        let ids = std::mem::take(&mut self.ids);
        let batch = self.batch().await;
        push_bad(&ids, StatusCode::BAD_NOT_CONNECTED, batch);
        self.flush().await;
    }
}

/// The next event of a line that has something to wait for. Of one that rests: that it was closed.
async fn next(line: &mut Option<Line>) -> Event {
    match line {
        Some(line) => line.next().await,
        None => std::future::pending().await,
    }
}

/// A bad row for each tag of a request.
pub fn bad_rows(ids: &[TagId], block: &Block, status: StatusCode, rows: &mut Batch) {
    for piece in &block.pieces {
        push_bad(&ids[piece.tag as usize..=piece.tag as usize], status, rows);
    }
}

/// Moves a job's rows to the end of the batch, and what they have in the heap.
fn append(batch: &mut Batch, rows: &mut Batch) {
    let shift = batch.heap.len() as u32;
    batch.heap.extend_from_slice(&rows.heap);
    batch.rows.extend(rows.rows.iter().map(|row| match row.value {
        Value::Text(span) => Row { value: Value::Text(Span { start: span.start + shift, len: span.len }), ..*row },
        _ => *row,
    }));
    rows.clear();
}
