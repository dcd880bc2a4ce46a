//! What the groups write into their journal.
//!
//! ```text
//! key     1 | group                                        value   version u8 = 1 | roster
//!         2 | group | topic | partition i32                        version u8 = 1 | offset
//!         3 | producer i64 | group | topic | partition i32         version u8 = 1 | offset     until the producer's transaction ends
//! roster  generation i32 | type ? | protocol ? | leader ? | members: list of
//!         (id | instance ? | client id | host | session ms u32 | rebalance ms u32 | metadata | assignment)      ?: u8 0, or u8 1 and the text
//! offset  offset i64 | leader epoch i32 | at ms i64 | expires ms i64 or -1 | metadata
//! ```

use std::time::Duration;

use bytes::Bytes;

use crate::group::membership::{Roster, RosterMember};
use crate::storage::wire::{Reader, Writer};

const VERSION: u8 = 1;

/// A committed offset. Offsets are the next record to read, leader epoch -1 means not told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    /// When it was committed; milliseconds since 1970, as all times here.
    pub at_ms: i64,
    /// Kept until then, if the client said so (versions 2 to 4); else as long as the broker keeps offsets.
    pub expires_ms: Option<i64>,
}

/// What an entry of the journal is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key<'a> {
    Roster { group: &'a str },
    Offset { group: &'a str, topic: &'a str, partition: i32 },
    Pending { producer: i64, group: &'a str, topic: &'a str, partition: i32 },
}

impl<'a> Key<'a> {
    pub fn bytes(self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Key::Roster { group } => out.u8(1).str(group),
            Key::Offset { group, topic, partition } => out.u8(2).str(group).str(topic).i32(partition),
            Key::Pending { producer, group, topic, partition } => out.u8(3).i64(producer).str(group).str(topic).i32(partition),
        };
        out.0
    }

    pub fn read(key: &'a [u8]) -> Option<Self> {
        let mut key = Reader(key);
        Some(match key.u8()? {
            1 => Key::Roster { group: key.str()? },
            2 => Key::Offset { group: key.str()?, topic: key.str()?, partition: key.i32()? },
            3 => Key::Pending { producer: key.i64()?, group: key.str()?, topic: key.str()?, partition: key.i32()? },
            _ => return None,
        })
    }
}

pub fn write_offset(committed: &Committed) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION).i64(committed.offset).i32(committed.leader_epoch).i64(committed.at_ms);
    out.i64(committed.expires_ms.unwrap_or(-1)).str(&committed.metadata);
    out.0
}

pub fn read_offset(value: &[u8]) -> Option<Committed> {
    let mut value = versioned(value)?;
    let (offset, leader_epoch, at_ms, expires) = (value.i64()?, value.i32()?, value.i64()?, value.i64()?);
    Some(Committed { offset, leader_epoch, at_ms, expires_ms: (expires >= 0).then_some(expires), metadata: value.str()?.to_owned() })
}

pub fn write_roster(roster: &Roster) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION).i32(roster.generation);
    for name in [&roster.protocol_type, &roster.protocol, &roster.leader] {
        optional(&mut out, name.as_deref());
    }
    out.u32(roster.members.len() as u32);
    for member in &roster.members {
        out.str(&member.id);
        optional(&mut out, member.instance.as_deref());
        out.str(&member.client_id).str(&member.client_host);
        out.u32(member.session_timeout.as_millis() as u32).u32(member.rebalance_timeout.as_millis() as u32);
        out.bytes(&member.metadata).bytes(&member.assignment);
    }
    out.0
}

pub fn read_roster(value: &[u8]) -> Option<Roster> {
    let mut value = versioned(value)?;
    Some(Roster {
        generation: value.i32()?,
        protocol_type: read_optional(&mut value)?,
        protocol: read_optional(&mut value)?,
        leader: read_optional(&mut value)?,
        members: value.list(|value| {
            Some(RosterMember {
                id: value.str()?.to_owned(),
                instance: read_optional(value)?,
                client_id: value.str()?.to_owned(),
                client_host: value.str()?.to_owned(),
                session_timeout: Duration::from_millis(value.u32()?.into()),
                rebalance_timeout: Duration::from_millis(value.u32()?.into()),
                metadata: Bytes::copy_from_slice(value.bytes()?),
                assignment: Bytes::copy_from_slice(value.bytes()?),
            })
        })?,
    })
}

/// Whether a later release wrote an entry.
pub fn is_newer_entry(value: &[u8]) -> bool {
    value.first().is_some_and(|version| *version > VERSION)
}

fn versioned(value: &[u8]) -> Option<Reader<'_>> {
    value.strip_prefix(&[VERSION]).map(Reader)
}

fn optional(out: &mut Writer, text: Option<&str>) {
    out.u8(text.is_some().into());
    if let Some(text) = text {
        out.str(text);
    }
}

fn read_optional(from: &mut Reader<'_>) -> Option<Option<String>> {
    match from.u8()? {
        0 => Some(None),
        _ => Some(Some(from.str()?.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_not() {
        let committed =
            Committed { offset: 1 << 40, leader_epoch: -1, metadata: "here".into(), at_ms: 1_700_000_000_000, expires_ms: None };
        let member = RosterMember {
            id: "c-1".into(),
            instance: Some("press".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(300),
            metadata: Bytes::from_static(b"\x00\x01"),
            assignment: Bytes::new(),
        };
        let roster = Roster {
            generation: 7,
            protocol_type: Some("consumer".into()),
            protocol: None,
            leader: Some("c-1".into()),
            members: vec![member.clone(), RosterMember { instance: None, ..member }],
        };
        let value = write_roster(&roster);
        assert_eq!(read_roster(&value), Some(roster));
        (0..value.len()).for_each(|cut| assert_eq!(read_roster(&value[..cut]), None, "cut at {cut}"));
        for committed in [Committed { expires_ms: Some(5), ..committed.clone() }, committed] {
            let value = write_offset(&committed);
            assert_eq!(read_offset(&value), Some(committed));
            (0..value.len()).for_each(|cut| assert_eq!(read_offset(&value[..cut]), None, "cut at {cut}"));
        }
        let offset = Key::Offset { group: "g", topic: "t", partition: 3 };
        for key in [Key::Roster { group: "" }, offset, Key::Pending { producer: 9, group: "g", topic: "t", partition: -1 }] {
            let bytes = key.bytes();
            assert_eq!(Key::read(&bytes), Some(key));
            (0..bytes.len()).for_each(|cut| assert_eq!(Key::read(&bytes[..cut]), None, "cut at {cut}"));
        }
        assert_eq!(Key::read(&[99]), None);
    }
}
