//! What goes before any read: commands, and the acknowledgements of triggers.
//!
//! ```text
//! command ─> fits? ─> [read what must hold]* ─> [read the register]* ─> write ─> [read it back]* ─> answer       * where something asks for it
//! ```
//!
//! A write is sent once. No answer to it means `unknown`; it is never repeated by itself (an acknowledgement is: it says the same each time).

use crate::pdu::{Read, Request, Write};
use millrace_contract::{Answer, Condition};
use millrace_kit::trigger;
use millrace_schemas::Micros;

/// Something to write, and how far it is.
pub struct Urgent {
    /// Index of its tag.
    pub tag: usize,
    pub stage: Stage,
    pub expires: Option<Micros>,
    pub by: By,
}

/// How far it is.
pub enum Stage {
    /// Conditions are read, the last one first; then comes the rest.
    Checking {
        read: Read,
        conditions: Vec<(usize, Condition)>,
        then: Box<Stage>,
    },
    /// Some bits of a register: it is read first.
    Changing {
        read: Read,
        mask: u16,
        bits: u16,
    },
    Writing(Write),
    ReadingBack {
        read: Read,
        write: Write,
    },
}

/// Who wants it.
pub enum By {
    Command(Answer),
    Trigger(trigger::Write),
}

impl Urgent {
    /// What is to be sent. `None`: its time is over.
    pub fn request(&self) -> Option<Request> {
        if self.expires.is_some_and(|expires| expires < Micros::now()) {
            return None;
        }
        Some(match &self.stage {
            Stage::Checking { read, .. } => Request::Read(*read),
            Stage::Changing { read, .. } | Stage::ReadingBack { read, .. } => Request::Read(*read),
            Stage::Writing(write) => Request::Write(write.clone()),
        })
    }
}
