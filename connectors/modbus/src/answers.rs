//! What the answer to a read means: values, a refusal that is parted or blamed on a tag, a device that wants to be asked later, silence.

use crate::bus::{Bus, bad_rows};
use crate::decode::{self, status_of};
use crate::line::{Outcome, Trouble};
use crate::pdu::Exception;
use crate::unit::Work;
use millrace_contract::Status;
use millrace_schemas::{Micros, StatusCode};

impl Bus<'_> {
    /// What a read came to.
    pub async fn on_read(&mut self, unit: usize, work: Work, outcome: Outcome) {
        match outcome {
            Outcome::Data => {
                self.units[unit].breaker.answered(self.io);
                let is_new = self.units[unit].answered(&work);
                self.take_rows(&work);
                if is_new {
                    self.replan(unit);
                }
                self.tell_refusals(unit);
            }
            Outcome::Refused(exception) if exception.is_from_a_gateway() => {
                self.silent(unit, &work, &exception.to_string(), StatusCode::BAD_NO_COMMUNICATION);
            }
            Outcome::Refused(exception) if exception.is_busy() && work.attempt == 0 => {
                self.units[unit].breaker.answered(self.io);
                self.units[unit].queue.push_back(Work { attempt: 1, ..work });
                return;
            }
            Outcome::Refused(exception) => {
                self.units[unit].breaker.answered(self.io);
                if exception.is_about_the_request()
                    && let Some(parts) = self.units[unit].part(&work)
                {
                    self.jobs[work.job].outstanding += parts - 1;
                    return;
                }
                self.refused(unit, &work, exception);
            }
            Outcome::Trouble(trouble @ (Trouble::Timeout(_) | Trouble::Cut(_) | Trouble::Checksum | Trouble::Closed)) => {
                let status = if matches!(trouble, Trouble::Timeout(_) | Trouble::Closed) {
                    StatusCode::BAD_TIMEOUT
                } else {
                    StatusCode::BAD_DECODING_ERROR
                };
                self.silent(unit, &work, &format!("{}: {trouble}", work.block.read), status);
            }
            Outcome::Trouble(trouble) => {
                let why = format!("{}: {trouble}", work.block.read);
                tracing::warn!(unit = self.source.units[unit].id, device = %self.source.units[unit].name, why, "an answer can't be used");
                self.units[unit].failed(&work);
                self.io.status(&self.source.units[unit].name, Status::Degraded(why));
                self.has_refusals[unit] = true;
                self.bad(&work, StatusCode::BAD_DECODING_ERROR);
            }
        }
        self.done(work.job).await;
    }

    fn take_rows(&mut self, work: &Work) {
        let Some(line) = &self.line else { return };
        let (block, data) = (&work.block, line.data());
        let state = &mut self.jobs[work.job];
        state.is_alive = true;
        let rows = &mut state.rows;
        if self.source.jobs[work.job].is_triggered {
            self.events.take(work, &self.points, data, rows);
        } else {
            decode::rows(&self.points, &self.ids, block, data, Micros::now(), self.counters, rows);
        }
    }

    fn bad(&mut self, work: &Work, status: StatusCode) {
        if self.source.jobs[work.job].is_triggered {
            self.events.failed(work, status);
        } else {
            bad_rows(&self.ids, &work.block, status, &mut self.jobs[work.job].rows);
        }
    }

    fn refused(&mut self, unit: usize, work: &Work, exception: Exception) {
        let of = &self.source.units[unit];
        if self.units[unit].refused.is_empty() {
            let endpoint = &self.source.endpoint;
            tracing::warn!(device = %of.name, "cannot read {} from unit {} at {endpoint}: {exception}; check the address", work.block.read, of.id);
        }
        let is_new = if exception.is_busy() { false } else { self.units[unit].refused(work, exception) };
        self.bad(work, status_of(exception));
        if is_new {
            self.replan(unit);
        }
        self.tell_refusals(unit);
    }

    /// A unit's status says what it refuses, and that it refuses nothing any more.
    fn tell_refusals(&mut self, unit: usize) {
        let has = !self.units[unit].refused.is_empty();
        if has == self.has_refusals[unit] {
            return;
        }
        self.has_refusals[unit] = has;
        let status = self.units[unit].refusals().map_or(Status::Running, Status::Degraded);
        self.io.status(&self.source.units[unit].name, status);
    }

    /// A unit didn't answer. If its breaker opens, the rest of its cycle is given up.
    fn silent(&mut self, unit: usize, work: &Work, why: &str, status: StatusCode) {
        self.units[unit].failed(work);
        let of = &self.source.units[unit];
        if of.id == 255 && !of.is_named {
            self.units[unit].breaker.failed(&format!("{why}; unit 255 was asked, as no `unit_id` is given"), self.io);
        } else {
            self.units[unit].breaker.failed(why, self.io);
        }
        self.bad(work, status);
        if !self.units[unit].breaker.is_open() {
            return;
        }
        for rest in std::mem::take(&mut self.units[unit].queue) {
            self.units[unit].failed(&rest);
            self.bad(&rest, status);
            self.jobs[rest.job].outstanding -= 1;
        }
    }

    /// Something was learnt about a unit: its jobs are planned anew.
    fn replan(&mut self, unit: usize) {
        for (job, of) in self.source.jobs.iter().enumerate().filter(|(_, of)| of.unit == unit) {
            self.jobs[job].blocks = self.units[unit].plan(of, &self.source.units[unit]);
        }
        if !self.learnt.contains(&unit) {
            self.learnt.push(unit);
        }
    }
}
