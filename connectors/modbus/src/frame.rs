//! What a line wraps around a PDU, and how an answer is found in the bytes that come.
//!
//! ```text
//! TCP             transaction id, 0, length (2), unit, PDU           the length tells where it ends
//! RTU             unit, PDU, CRC (low byte first)                    the function and the byte count tell
//! RTU over TCP    the same bytes through a socket, glued and cut as TCP likes
//! ```
//!
//! Silence between frames is not measured: kernels and USB adapters collect bytes. An RTU answer is found by its unit, its function, its length and
//! its CRC, wherever it begins; what lies before it is noise.
//!
//! Our own, and not tokio-modbus's: that has one request in flight, no timeout, and drops the whole context when a late answer carries the id of a
//! request that was given up; it can't match by function for gateways that echo no id, nor strip an echo, nor find a frame behind noise.
//!
//! Source: Modbus Messaging on TCP/IP V1.0b, section 3.1.3; Modbus over Serial Line V1.02, section 2.5.1.

use crate::pdu::{self, Request};
use std::ops::Range;

/// The longest frame, of either kind.
pub const MOST_BYTES: usize = 260;

/// How a request is wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Tcp,
    Rtu,
}

/// Computes the checksum of an RTU frame.
///
/// Units: sent low byte first.
/// Source: Serial Line V1.02, section 2.5.1.2 and appendix B.
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| CRC_TABLE[usize::from((crc as u8) ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

impl Framing {
    /// Appends a whole frame. `id` is the transaction's, where the line carries one.
    pub fn encode(self, id: u16, unit: u8, request: &Request, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Tcp => {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, 0, unit]);
                request.encode(out);
                let length = (out.len() - start - 6) as u16;
                out[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
            }
            Self::Rtu => {
                out.push(unit);
                request.encode(out);
                let crc = crc(&out[start..]);
                out.extend_from_slice(&crc.to_le_bytes());
            }
        }
    }

    /// How many bytes it adds to a PDU.
    pub const fn overhead_bytes(self) -> usize {
        match self {
            Self::Tcp => 7,
            Self::Rtu => 3,
        }
    }
}

/// A frame of Modbus TCP, found at the beginning of a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpFrame {
    pub id: u16,
    pub unit: u8,
    pub pdu: Range<usize>,
}

/// Why what comes is no Modbus TCP: the stream can't be trusted again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Foreign {
    #[error(
        "the peer speaks no Modbus TCP: protocol {0} instead of 0; if this is a serial gateway in transparent mode, write `rtu+tcp://`"
    )]
    Protocol(u16),
    #[error("the peer speaks no Modbus TCP: a frame of {0} bytes")]
    Length(u16),
}

/// Finds the first frame. `None`: not all of it is there.
pub fn tcp_frame(bytes: &[u8]) -> Result<Option<TcpFrame>, Foreign> {
    let Some(head) = bytes.first_chunk::<7>() else { return Ok(None) };
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    if word(2) != 0 {
        return Err(Foreign::Protocol(word(2)));
    }
    let length = word(4);
    if !(2..=254).contains(&length) {
        return Err(Foreign::Length(length));
    }
    let end = 6 + usize::from(length);
    Ok((bytes.len() >= end).then(|| TcpFrame { id: word(0), unit: head[6], pdu: 7..end }))
}

/// Where an RTU answer was found, or what stands there instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RtuFrame {
    /// The PDU; everything up to `end` is done with. `noise` bytes came before it.
    Found { unit: u8, pdu: Range<usize>, end: usize, noise: usize },
    /// A whole answer by its length, but its checksum is wrong; more may still follow.
    BadCrc,
    /// Not all of it is there.
    Partial,
}

/// Finds the answer to a request among the bytes that came, behind any noise.
///
/// A frame counts if it is an answer to the function that was asked (or its refusal) and its CRC is right. `length` tells how long an answer with
/// data must be, where it is known: bytes that only look like the head of a longer one hold nothing up.
pub fn rtu_frame(bytes: &[u8], request: &Request) -> RtuFrame {
    let asked = request.function();
    let mut outcome = RtuFrame::Partial;
    for start in 0..bytes.len().saturating_sub(4) {
        let frame = &bytes[start..];
        if frame[1] & 0x7F != asked {
            continue;
        }
        let Some(length) = pdu::length_of(&frame[1..]) else { continue };
        let end = 1 + length;
        let Some(tail) = frame.get(end..end + 2) else { continue };
        if crc(&frame[..end]).to_le_bytes() == tail {
            return RtuFrame::Found { unit: frame[0], pdu: start + 1..start + end, end: start + end + 2, noise: start };
        }
        outcome = RtuFrame::BadCrc;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Table;
    use crate::pdu::{Read, Reply, Write};
    use proptest::prelude::*;

    fn read(table: Table, start: u16, count: u16) -> Request {
        Request::Read(Read { table, start, count, register_bytes: 2 })
    }

    fn frame(framing: Framing, id: u16, unit: u8, request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        framing.encode(id, unit, request, &mut out);
        out
    }

    #[test]
    fn the_checksum_is_that_of_the_catalogues() {
        // CRC-16/MODBUS of "123456789" is 4B37; the frame 02 07 is the example of Serial Line V1.02, appendix B.
        assert_eq!(crc(b"123456789").to_le_bytes(), [0x37, 0x4B]);
        assert_eq!(crc(&[0x02, 0x07]).to_le_bytes(), [0x41, 0x12]);
    }

    #[test]
    fn requests_are_wrapped_for_either_line() {
        let request = read(Table::Holding, 0x6B, 3);
        assert_eq!(frame(Framing::Tcp, 0x1501, 0xFF, &request), [0x15, 0x01, 0, 0, 0, 6, 0xFF, 3, 0, 0x6B, 0, 3]);
        assert_eq!(frame(Framing::Rtu, 0, 0x11, &request), [0x11, 3, 0, 0x6B, 0, 3, 0x76, 0x87]);
    }

    #[test]
    fn a_tcp_frame_is_found_when_all_of_it_is_there() {
        let bytes = [0, 1, 0, 0, 0, 5, 17, 3, 2, 0, 7, 0xAA];
        for cut in 0..11 {
            assert_eq!(tcp_frame(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(tcp_frame(&bytes), Ok(Some(TcpFrame { id: 1, unit: 17, pdu: 7..11 })));
        assert_eq!(tcp_frame(b"HTTP/1.1 400"), Err(Foreign::Protocol(0x5450)));
        assert_eq!(tcp_frame(&[0, 1, 0, 0, 1, 0, 17]), Err(Foreign::Length(256)));
        assert_eq!(tcp_frame(&[0, 1, 0, 0, 0, 1, 17]), Err(Foreign::Length(1)));
    }

    #[test]
    fn an_rtu_answer_is_found_behind_noise_and_in_pieces() {
        let request = read(Table::Holding, 0, 1);
        let answer = {
            let mut a = vec![0x11, 3, 2, 0, 7];
            a.extend(crc(&a).to_le_bytes());
            a
        };
        let mut bytes = vec![0x00, 0xFF, 0x11];
        bytes.extend(&answer);
        for cut in 0..bytes.len() {
            assert!(!matches!(rtu_frame(&bytes[..cut], &request), RtuFrame::Found { .. }), "cut at {cut}");
        }
        assert_eq!(rtu_frame(&bytes, &request), RtuFrame::Found { unit: 0x11, pdu: 4..8, end: 10, noise: 3 });
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(rtu_frame(&bytes, &request), RtuFrame::BadCrc);
    }

    #[test]
    fn a_refusal_is_found_and_the_answer_to_something_else_is_not() {
        let request = read(Table::Holding, 0, 1);
        let refusal = {
            let mut a = vec![0x11, 0x83, 2];
            a.extend(crc(&a).to_le_bytes());
            a
        };
        let RtuFrame::Found { pdu, .. } = rtu_frame(&refusal, &request) else { panic!("is one") };
        assert_eq!(request.reply(&refusal[pdu]), Ok(Reply::Refused(pdu::Exception::ADDRESS)));
        assert_eq!(rtu_frame(&refusal, &read(Table::Input, 0, 1)), RtuFrame::Partial);
    }

    proptest! {
        #[test]
        fn bytes_from_anywhere_are_taken_apart_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some(found)) = tcp_frame(&bytes) {
                prop_assert!(found.pdu.end <= bytes.len());
            }
            for request in [read(Table::Coil, 0, 9), Request::Write(Write::Mask { start: 0, and: 0, or: 0 }), Request::Identify { from: 0 }] {
                if let RtuFrame::Found { pdu, end, .. } = rtu_frame(&bytes, &request) {
                    prop_assert!(pdu.end < end && end <= bytes.len());
                }
            }
        }

        #[test]
        fn an_answer_is_found_behind_any_noise(noise in prop::collection::vec(any::<u8>(), 0..40), data in prop::collection::vec(any::<u8>(), 2..=250)) {
            let request = read(Table::Holding, 0, (data.len() / 2) as u16);
            let mut answer = vec![7, 3, data.len() as u8];
            answer.extend(&data);
            answer.extend(crc(&answer).to_le_bytes());
            let bytes = [&noise[..], &answer].concat();
            let found = rtu_frame(&bytes, &request);
            prop_assert!(matches!(found, RtuFrame::Found { .. }), "{:?}", found);
        }
    }
}
