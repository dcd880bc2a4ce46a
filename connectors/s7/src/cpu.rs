//! What a CPU says of itself: its state, order number, names and limits, from its system status list (SZL), and its blocks.
//!
//! ```text
//! SZL answer   id:16 index:16 record bytes:16 records:16, then the records
//! 0424         .. .. .. state in the low nibble of byte 3
//! 0011         index:16 order number (20) .. 'V' major minor patch    index 1: the order number, 7: the firmware
//! 001C         index:16 text (32)                                      1 station, 2 module, 5 serial number, 7 type of CPU
//! 0131 / 1     index:16 pdu:16 connections:16
//! 0232 / 4     index:16 selector:16 password level:16 effective level:16
//! ```
//!
//! S7-1200, S7-1500 and LOGO! refuse some or all of it: that is no error, and no lost connection.

use crate::connection::{ConnectionError, Wire};
use crate::frame::{self, Answer, UserData};
use std::fmt;

/// Fragments and bytes of one answer, at most.
const FRAGMENTS_MOST: usize = 64;
const BYTES_MOST: usize = 64 * 1024;

/// What a CPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Run,
    Starting,
    Stop,
    Hold,
    Defect,
}

impl State {
    const fn of(nibble: u8) -> Option<Self> {
        Some(match nibble {
            8 | 9 => Self::Run,
            5..=7 => Self::Starting,
            1..=4 => Self::Stop,
            10 => Self::Hold,
            13 => Self::Defect,
            _ => return None,
        })
    }

    /// Whether its program runs, so that values are fresh.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Run)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "RUN",
            Self::Starting => "STARTUP",
            Self::Stop => "STOP",
            Self::Hold => "HOLD",
            Self::Defect => "DEFECT",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Asks for user data and puts the fragments of the answer together. `None`: refused.
async fn user_data(wire: &Wire, request: UserData<'_>) -> Result<Option<Vec<u8>>, ConnectionError> {
    let mut data = Vec::new();
    let mut pdu = wire.ask(request.request()).await.answer().await;
    for _ in 0..FRAGMENTS_MOST {
        let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
        if answer.kind != 7 || answer.error != 0 {
            return Ok(None);
        }
        let fragment = answer.user_data().map_err(|error| wire.foreign(error))?;
        if fragment.error != 0 || fragment.code != 0xFF {
            return Ok(None);
        }
        data.extend_from_slice(fragment.data);
        if fragment.last || data.len() > BYTES_MOST {
            return Ok(Some(data));
        }
        let more = UserData::More { group: fragment.group, function: fragment.function, sequence: fragment.sequence };
        pdu = wire.ask(more.request()).await.answer().await;
    }
    Ok(None)
}

/// The records of a part of the system status list; empty where the CPU refuses it.
async fn szl(wire: &Wire, id: u16, index: u16) -> Result<Vec<Vec<u8>>, ConnectionError> {
    let data = user_data(wire, UserData::Szl { id, index }).await?.unwrap_or_default();
    Ok(records(&data))
}

fn records(data: &[u8]) -> Vec<Vec<u8>> {
    let Some((head, records)) = data.split_first_chunk::<8>() else { return Vec::new() };
    let size = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if size == 0 {
        return Vec::new();
    }
    records.chunks_exact(size).map(<[u8]>::to_vec).collect()
}

/// Its state; `None`: it does not say.
pub async fn state(wire: &Wire) -> Result<Option<State>, ConnectionError> {
    let records = szl(wire, 0x0424, 0).await?;
    Ok(records.first().and_then(|record| record.get(3)).and_then(|byte| State::of(byte & 0x0F)))
}

/// What does not change while it runs; empty where it does not say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub order_number: String,
    pub firmware: String,
    pub station: String,
    pub module: String,
    pub serial_number: String,
    pub cpu_type: String,
}

pub async fn identity(wire: &Wire) -> Result<Identity, ConnectionError> {
    let mut identity = Identity::default();
    for record in szl(wire, 0x0011, 0).await? {
        match record.as_slice() {
            [0, 1, rest @ ..] if rest.len() >= 20 => identity.order_number = text(&rest[..20]),
            [0, 7, .., b'V', major, minor, patch] => identity.firmware = format!("V{major}.{minor}.{patch}"),
            _ => {}
        }
    }
    for record in szl(wire, 0x001C, 0).await? {
        let [0, index, rest @ ..] = record.as_slice() else { continue };
        let field = match index {
            1 => &mut identity.station,
            2 => &mut identity.module,
            5 => &mut identity.serial_number,
            7 => &mut identity.cpu_type,
            _ => continue,
        };
        *field = text(&rest[..rest.len().min(32)]);
    }
    Ok(identity)
}

/// The greatest PDU and the number of connections; `None`: it does not say.
pub async fn limits(wire: &Wire) -> Result<Option<(u16, u16)>, ConnectionError> {
    let records = szl(wire, 0x0131, 1).await?;
    Ok(records.first().and_then(|record| match record.as_slice() {
        [_, _, p1, p0, c1, c0, ..] => Some((u16::from_be_bytes([*p1, *p0]), u16::from_be_bytes([*c1, *c0]))),
        _ => None,
    }))
}

/// The level of protection that is in effect: 1 none, 2 writing, 3 reading and writing.
pub async fn protection(wire: &Wire) -> Result<Option<u16>, ConnectionError> {
    let records = szl(wire, 0x0232, 4).await?;
    Ok(records.first().and_then(|record| match record.as_slice() {
        [_, _, _, _, _, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }))
}

/// The numbers of its data blocks; `None`: it does not list them.
pub async fn data_blocks(wire: &Wire) -> Result<Option<Vec<u16>>, ConnectionError> {
    let listed = user_data(wire, UserData::BlocksOf(frame::DATA_BLOCKS)).await?;
    Ok(listed.map(|data| data.chunks_exact(4).map(|block| u16::from_be_bytes([block[0], block[1]])).collect()))
}

/// The length of a data block in bytes; `None`: it does not say.
pub async fn block_length(wire: &Wire, db: u16) -> Result<Option<u16>, ConnectionError> {
    let digits = format!("{db:05}");
    let Some(digits) = digits.as_bytes().first_chunk::<5>() else { return Ok(None) };
    let info = user_data(wire, UserData::Block(frame::DATA_BLOCKS, digits)).await?;
    // Behind the four bytes of the item's head: the length of the data at 40.
    Ok(info.and_then(|info| Some(u16::from_be_bytes([*info.get(40)?, *info.get(41)?]))))
}

/// Printable characters, without what pads them.
fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' })
        .collect::<String>()
        .trim()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_name() {
        let states: Vec<_> = (0..16).map(|nibble| State::of(nibble).map_or("-", State::as_str)).collect();
        assert_eq!(states[..11], ["-", "STOP", "STOP", "STOP", "STOP", "STARTUP", "STARTUP", "STARTUP", "RUN", "RUN", "HOLD"]);
        assert_eq!(states[13], "DEFECT");
    }

    #[test]
    fn records_that_are_cut_are_left_out() {
        assert_eq!(records(&[0, 0x11, 0, 0, 0, 2, 0, 2, 1, 2, 3]), [[1, 2]]);
        assert_eq!(records(&[0, 0x11, 0, 0, 0, 0, 0, 2, 1, 2, 3]), Vec::<Vec<u8>>::new());
        assert_eq!(records(&[0, 0x11]), Vec::<Vec<u8>>::new());
    }
}
