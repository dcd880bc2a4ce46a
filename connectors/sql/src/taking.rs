//! Rows of one reading on their way into batches.

use crate::object::{Object, Style};
use crate::progress::{MOST_SEEN, Progress};
use crate::statement::Query;
use millrace_contract::SourceIo;
use millrace_kit::records::polling::Polling;
use millrace_kit::records::{Records, content_hash, reject};
use millrace_schemas::{Batch, Span};

/// A batch is sent when its bytes are so many.
const BATCH_BYTES: usize = 1 << 20;

/// Why a reading ended early.
#[derive(Clone, PartialEq, Debug)]
pub enum Trouble {
    /// The connection is gone.
    Lost(String),
    /// The login: a person must act.
    Human(String),
    /// This query alone.
    Query(String),
}

/// Rows of one reading on their way into batches.
pub struct Taking<'a> {
    pub polling: &'a Polling<Query>,
    pub records: &'a mut Records,
    pub progress: &'a mut Progress,
    pub io: &'a SourceIo,
    pub batch: Batch,
    pub style: Style,
}

/// The header of a document that names what of the row does not fit, as a JSON object: `{"valid_until": "infinity"}`.
const UNFIT: &str = "millrace.unfit";

impl Taking<'_> {
    /// Takes a row: its object, and its watermark and ids, and whether it is recent.
    pub fn row(&mut self, object: &Object, at: Option<(&[String], bool)>) {
        let is_new = at.is_none_or(|(_, is_recent)| self.progress.row(is_recent, || content_hash(&object.bytes)));
        if is_new {
            let headers = match object.unfit.is_empty() {
                true => Span::EMPTY,
                false => self.batch.push_headers([(UNFIT, Some(object.unfit.as_slice()))]),
            };
            if let Err(reason) = self.records.take_own(&self.polling.making, &object.bytes, headers, &mut self.batch, self.io) {
                reject(&self.polling.making, &object.bytes, headers, reason.into(), &mut self.batch);
            }
        }
        if let Some(([watermark, ids @ ..], _)) = at {
            self.progress.at(watermark, ids);
        }
    }

    pub fn is_full(&self) -> bool {
        self.batch.heap.len() >= BATCH_BYTES || self.batch.rows.len() >= BATCH_BYTES / 64 || self.batch.docs.len() >= BATCH_BYTES / 64
    }

    /// Sends what there is, with the position. Waits while the log is full.
    pub async fn flush(&mut self) -> Result<(), Trouble> {
        if self.progress.seen() > MOST_SEEN {
            return Err(Trouble::Query(format!("the overlap holds more than {MOST_SEEN} rows; make `overlap` shorter")));
        }
        let batch = std::mem::replace(&mut self.batch, self.io.batch().await);
        if !batch.is_empty() {
            let moved = if self.polling.own.watermark.is_some() { self.progress.moved() } else { Vec::new() };
            send(self.io, batch, &moved).await;
        }
        Ok(())
    }
}

/// Hands a batch over, with what moves with it.
pub async fn send(io: &SourceIo, batch: Batch, moved: &[(String, Vec<u8>)]) {
    let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
    io.send(batch, &moved).await;
}
