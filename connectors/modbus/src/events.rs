//! Events being read: when a tag has its edge, a group is read once, then its trigger again, into one document.
//!
//! What an event is, when it is torn, and when it is acknowledged is the kit's ([`millrace_kit::trigger`]); here is what came of it so far.

use crate::decode;
use crate::point::Point;
use crate::unit::Work;
use millrace_contract::SourceIo;
use millrace_kit::Triggers;
use millrace_kit::trigger::{Fired, Write};
use millrace_schemas::{Batch, StatusCode, Value};
use std::collections::VecDeque;

/// The triggers of a source, over all its sessions, and the events being read.
#[derive(Default)]
pub struct Events {
    pub triggers: Triggers,
    pub open: Vec<Open>,
    /// Of groups that are being read for an earlier event.
    pub later: VecDeque<Fired>,
}

/// An event being read.
pub struct Open {
    pub fired: Fired,
    pub job: usize,
    /// Index of the tag, value, status; texts are in the job's heap.
    pub fields: Vec<(usize, Value, StatusCode)>,
    pub trigger: Option<Value>,
    pub is_unread: bool,
}

impl Events {
    pub fn of(triggers: Triggers) -> Self {
        Self { triggers, ..Self::default() }
    }

    pub fn are_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Ends all events that are being read; they are events still.
    pub fn close(&mut self) -> Vec<Fired> {
        self.open.drain(..).map(|open| open.fired).chain(self.later.drain(..)).collect()
    }

    /// Waits for the next acknowledgement that is to be written. Cancel-safe.
    pub async fn next_write(&mut self, io: &SourceIo) -> Write {
        self.triggers.next_write(io).await
    }

    /// The values of an answered request.
    pub fn take(&mut self, work: &Work, points: &[Point], data: &[u8], rows: &mut Batch) {
        let Some(open) = self.open.iter_mut().find(|open| open.job == work.job) else { return };
        for piece in &work.block.pieces {
            let index = piece.tag as usize;
            let (value, status) = match decode::value(&points[index], piece, &work.block.read, data, rows) {
                Ok(value) => (value, StatusCode::GOOD),
                Err(status) => (Value::Null, status),
            };
            if work.is_trigger {
                open.trigger = Some(value).filter(|_| status.is_good());
            } else {
                open.fields.push((index, value, status));
            }
        }
    }

    /// A request was refused or had no answer.
    pub fn failed(&mut self, work: &Work, status: StatusCode) {
        let Some(open) = self.open.iter_mut().find(|open| open.job == work.job) else { return };
        let is_silence = matches!(status, StatusCode::BAD_TIMEOUT | StatusCode::BAD_NO_COMMUNICATION | StatusCode::BAD_DECODING_ERROR);
        open.is_unread |= is_silence || work.is_trigger;
        open.fields.extend(work.block.pieces.iter().map(|piece| (piece.tag as usize, Value::Null, status)));
    }
}
