//! Frames: TPKT and COTP class 0 around S7 PDUs.
//!
//! ```text
//! TPKT       03 00 length:16                        the length counts itself
//! COTP       02 F0 80                               data; bit 7 of the third byte: the last fragment
//!            li E0 dst:16 src:16 00 C0.. C1.. C2..  connect; C0 size of a TPDU as a power of two, C1 own TSAP, C2 remote TSAP
//!            li D0 ..                               confirmed; without C0 a TPDU has 128 bytes
//!            li 80 .. reason                        disconnect
//! S7         32 kind:8 0000 reference:16 parameters:16 data:16 [error class:8 code:8]      1 job, 2 ack, 3 ack with data, 7 user data
//! setup      F0 00 calling:16 called:16 pdu:16
//! read       04 n, n times 12 0A 10 type count:16 db:16 area address:24    ->  04 n, n times code type length:16 data, even but the last
//! write      05 n, items as above, then data as below it                   ->  05 n, n codes
//! SZL        00 01 12 04 11 44 01 sequence | FF 09 0004 id:16 index:16
//! ```
//!
//! Invariants: a length that a frame claims is checked before anything is read by it; what is reassembled is bounded; no byte sequence panics.
//!
//! Source: RFC 1006, RFC 905 (ISO 8073 class 0); the S7 layer as Wireshark's and PLC4X's descriptions have it.

use crate::address::Area;
use thiserror::Error;

/// The most bytes of a TPDU's fragments that make one PDU; a PDU is at most 65535 bytes by its own lengths, in use it is 960.
const PDU_BOUND: usize = 8192;

/// What came that is not what was expected.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    #[error("the other side does not speak ISO on TCP (RFC 1006): the first byte is {0:#04x}")]
    NotTpkt(u8),
    #[error("a frame of {0} bytes is too short or too long")]
    Length(usize),
    #[error("a frame of the unknown kind {0:#04x} came")]
    UnknownKind(u8),
    #[error("fragments of more than {PDU_BOUND} bytes came for one answer")]
    Unbounded,
    #[error("an answer is cut: {0}")]
    Cut(&'static str),
    #[error("an answer is none to the request: {0}")]
    Foreign(&'static str),
}

/// One thing that came from the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// The connection is confirmed; a TPDU has at most so many bytes.
    Confirmed { tpdu: usize },
    /// The other side hangs up, with its reason.
    Disconnected(u8),
    /// A whole S7 PDU.
    Data(Vec<u8>),
}

/// Puts frames together from the bytes of a stream.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    read: usize,
    pdu: Vec<u8>,
}

impl Assembler {
    /// Where the stream's next bytes go.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.read > 0 {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        &mut self.bytes
    }

    /// The next whole thing, if it has come.
    pub fn take(&mut self) -> Result<Option<Received>, FrameError> {
        loop {
            let rest = &self.bytes[self.read..];
            match rest.first() {
                None => return Ok(None),
                Some(3) => {}
                Some(other) => return Err(FrameError::NotTpkt(*other)),
            }
            let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            if !(7..=PDU_BOUND).contains(&length) {
                return Err(FrameError::Length(length));
            }
            let Some(frame) = rest.get(4..length) else { return Ok(None) };
            let header = 1 + usize::from(frame[0]);
            if header > frame.len() || header < 3 {
                return Err(FrameError::Length(length));
            }
            let received = match frame[1] & 0xF0 {
                0xD0 => Some(Received::Confirmed { tpdu: tpdu(&frame[..header]) }),
                0x80 => Some(Received::Disconnected(frame.get(6).copied().unwrap_or(0))),
                0xF0 => {
                    if self.pdu.len() + frame.len() - header > PDU_BOUND {
                        return Err(FrameError::Unbounded);
                    }
                    self.pdu.extend_from_slice(&frame[header..]);
                    (frame[2] & 0x80 != 0).then(|| Received::Data(std::mem::take(&mut self.pdu)))
                }
                other => return Err(FrameError::UnknownKind(other)),
            };
            self.read += length;
            if received.is_some() {
                return Ok(received);
            }
        }
    }
}

/// The size of a TPDU in a confirmation; its parameters begin at byte 7.
fn tpdu(header: &[u8]) -> usize {
    let mut rest = header.get(7..).unwrap_or_default();
    while let [code, length, tail @ ..] = rest {
        let Some(value) = tail.get(..usize::from(*length)) else { break };
        if let (0xC0, [power @ 7..=13]) = (*code, value) {
            return 1 << power;
        }
        rest = &tail[usize::from(*length)..];
    }
    128
}

/// The request for a connection. The TSAPs stand first and the size last, as some LOGO! want it.
pub fn connect(own_tsap: u16, remote_tsap: u16) -> Vec<u8> {
    let mut out = vec![3, 0, 0, 22, 17, 0xE0, 0, 0, 0, 1, 0];
    out.extend([0xC1, 2]);
    out.extend(own_tsap.to_be_bytes());
    out.extend([0xC2, 2]);
    out.extend(remote_tsap.to_be_bytes());
    // 1024 bytes: a TPDU that is smaller than the PDU makes some CPUs hang up.
    out.extend([0xC0, 1, 0x0A]);
    out
}

/// Wraps an S7 PDU into as few fragments as the other side's TPDU allows (its size counts the three bytes of COTP).
pub fn wrap(pdu: &[u8], tpdu: usize, out: &mut Vec<u8>) {
    let room = tpdu.saturating_sub(3).max(1);
    let mut chunks = pdu.chunks(room).peekable();
    while let Some(chunk) = chunks.next() {
        out.extend([3, 0]);
        out.extend((chunk.len() as u16 + 7).to_be_bytes());
        out.extend([2, 0xF0, if chunks.peek().is_none() { 0x80 } else { 0 }]);
        out.extend_from_slice(chunk);
    }
}

const JOB: u8 = 1;
const USER_DATA: u8 = 7;

fn head(kind: u8, parameters: usize, data: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + parameters + data);
    out.extend([0x32, kind, 0, 0, 0, 0]);
    out.extend((parameters as u16).to_be_bytes());
    out.extend((data as u16).to_be_bytes());
    out
}

/// Puts the reference of a request into it; the answer carries it.
pub fn set_reference(pdu: &mut [u8], reference: u16) {
    pdu[4..6].copy_from_slice(&reference.to_be_bytes());
}

/// The wish for a size of PDU and for jobs in flight.
pub fn setup(pdu: u16, jobs: u16) -> Vec<u8> {
    let mut out = head(JOB, 8, 0);
    out.extend([0xF0, 0]);
    out.extend(jobs.to_be_bytes());
    out.extend(jobs.to_be_bytes());
    out.extend(pdu.to_be_bytes());
    out
}

/// A piece of memory: so many bytes, or one bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    pub area: Area,
    pub db: u16,
    pub byte: u32,
    /// Bytes; of timers and counters twice their number.
    pub len: u16,
    /// One bit of the byte, instead of bytes.
    pub bit: Option<u8>,
}

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        let elements = self.area.counts_elements();
        let (kind, count, address) = match (self.area, self.bit) {
            (Area::Counters | Area::Timers, _) => (self.area as u8, self.len / 2, self.byte / 2),
            (_, Some(bit)) => (0x01, 1, self.byte * 8 + u32::from(bit)),
            _ => (0x02, self.len, self.byte * 8),
        };
        debug_assert!(!elements || self.byte.is_multiple_of(2));
        out.extend([0x12, 0x0A, 0x10, kind]);
        out.extend(count.to_be_bytes());
        out.extend(self.db.to_be_bytes());
        out.push(self.area as u8);
        out.extend(&address.to_be_bytes()[1..]);
    }
}

/// Bytes of a read request of n items.
pub const fn read_request_size(items: usize) -> usize {
    12 + 12 * items
}

/// Bytes of a read answer, with every item padded to an even length.
pub const READ_ANSWER_HEAD: usize = 14;
/// Bytes in front of an item's data, both ways.
pub const ITEM_HEAD: usize = 4;
/// The protocol's greatest number of items in one job.
pub const ITEMS_MAX: usize = 20;

pub fn read(items: &[Item]) -> Vec<u8> {
    let mut out = head(JOB, 2 + 12 * items.len(), 0);
    out.extend([4, items.len() as u8]);
    for item in items {
        item.write(&mut out);
    }
    out
}

/// Writes one piece of memory.
pub fn write(item: &Item, bytes: &[u8]) -> Vec<u8> {
    let mut out = head(JOB, 14, 4 + bytes.len());
    out.extend([5, 1]);
    item.write(&mut out);
    let (kind, length) = match (item.area.counts_elements(), item.bit) {
        (true, _) => (9, bytes.len()),
        (_, Some(_)) => (3, 1),
        _ => (4, bytes.len() * 8),
    };
    out.extend([0, kind]);
    out.extend((length as u16).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// A group and function of user data, in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserData<'a> {
    /// A part of the system status list.
    Szl { id: u16, index: u16 },
    /// How many blocks there are of each kind.
    BlocksOf(u8),
    /// Of one block: its lengths and dates; the block's kind and its number in five digits.
    Block(u8, &'a [u8; 5]),
    /// The next fragment of an answer; group and function as before.
    More { group: u8, function: u8, sequence: u8 },
}

/// The kind of data blocks, as the CPU writes it.
pub const DATA_BLOCKS: u8 = b'A';

impl UserData<'_> {
    pub fn request(self) -> Vec<u8> {
        let (group, function) = match self {
            Self::Szl { .. } => (0x44, 1),
            Self::BlocksOf(_) => (0x43, 2),
            Self::Block(..) => (0x43, 3),
            Self::More { group, function, .. } => (group, function),
        };
        let data: Vec<u8> = match self {
            Self::Szl { id, index } => [0xFF, 9, 0, 4].into_iter().chain(id.to_be_bytes()).chain(index.to_be_bytes()).collect(),
            Self::BlocksOf(kind) => vec![0xFF, 9, 0, 2, b'0', kind],
            Self::Block(kind, number) => [0xFF, 9, 0, 8, b'0', kind].into_iter().chain(*number).chain([b'A']).collect(),
            Self::More { .. } => vec![0x0A, 0, 0, 0],
        };
        if let Self::More { sequence, .. } = self {
            let mut out = head(USER_DATA, 12, data.len());
            out.extend([0, 1, 0x12, 8, 0x12, group, function, sequence, 0, 0, 0, 0]);
            out.extend(data);
            return out;
        }
        let mut out = head(USER_DATA, 8, data.len());
        out.extend([0, 1, 0x12, 4, 0x11, group, function, 0]);
        out.extend(data);
        out
    }
}

/// An S7 PDU that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    pub kind: u8,
    pub reference: u16,
    /// Error class and code; 0 is good.
    pub error: u16,
    pub parameters: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> Answer<'a> {
    pub fn parse(pdu: &'a [u8]) -> Result<Self, FrameError> {
        let head = pdu.first_chunk::<10>().ok_or(FrameError::Cut("its header has less than 10 bytes"))?;
        if head[0] != 0x32 {
            return Err(FrameError::Foreign("it does not begin with 32"));
        }
        let kind = head[1];
        let two = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
        let (header, error) = match kind {
            2 | 3 if pdu.len() >= 12 => (12, two(10)),
            2 | 3 => return Err(FrameError::Cut("its header has less than 12 bytes")),
            1 | 7 => (10, 0),
            _ => return Err(FrameError::Foreign("its kind is none of job, answer and user data")),
        };
        let (parameters, data) = (usize::from(two(6)), usize::from(two(8)));
        let rest = &pdu[header..];
        let parameters = rest.get(..parameters).ok_or(FrameError::Cut("its parameters are shorter than said"))?;
        let data = rest.get(parameters.len()..parameters.len() + data).ok_or(FrameError::Cut("its data are shorter than said"))?;
        Ok(Self { kind, reference: two(4), error, parameters, data })
    }

    /// What was agreed on: the size of a PDU, and jobs in flight.
    pub fn agreed(&self) -> Result<(u16, u16), FrameError> {
        match self.parameters {
            [0xF0, _, calling @ .., pdu_high, pdu_low] if calling.len() == 4 => {
                let called = u16::from_be_bytes([calling[2], calling[3]]);
                let calling = u16::from_be_bytes([calling[0], calling[1]]);
                Ok((u16::from_be_bytes([*pdu_high, *pdu_low]), calling.min(called).max(1)))
            }
            _ => Err(FrameError::Foreign("it is no setup of the communication")),
        }
    }

    /// The items of a read, each its bytes or its error code; as many as were asked for.
    pub fn items(&self, asked: usize) -> Result<Items<'a>, FrameError> {
        match self.parameters {
            [4, count] if usize::from(*count) == asked => Ok(Items { rest: self.data, left: asked }),
            [4, _] => Err(FrameError::Foreign("it has not as many items as were asked for")),
            _ => Err(FrameError::Foreign("it is no answer to a read")),
        }
    }

    /// The code of a write of one item.
    pub fn written(&self) -> Result<u8, FrameError> {
        match (self.parameters, self.data) {
            ([5, 1], [code, ..]) => Ok(*code),
            _ => Err(FrameError::Foreign("it is no answer to a write")),
        }
    }

    /// A fragment of user data.
    pub fn user_data(&self) -> Result<Fragment<'a>, FrameError> {
        let [0, 1, 0x12, 8, 0x12, group, function, sequence, _, more, high, low] = *self.parameters else {
            return Err(FrameError::Foreign("it is no answer to a request for user data"));
        };
        let error = u16::from_be_bytes([high, low]);
        let data = match self.data {
            [0xFF, _, high, low, data @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                data.get(..length).ok_or(FrameError::Cut("its user data are shorter than said"))?
            }
            _ => &[],
        };
        let code = self.data.first().copied().unwrap_or(0);
        Ok(Fragment { group: group & 0x0F | 0x40, function, sequence, last: more == 0, error, code, data })
    }
}

/// A fragment of an answer with user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment<'a> {
    pub group: u8,
    pub function: u8,
    pub sequence: u8,
    pub last: bool,
    pub error: u16,
    /// FF: there are data.
    pub code: u8,
    pub data: &'a [u8],
}

/// The items of an answer, one after the other.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Result<&'a [u8], u8>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Some((head, data)) = self.rest.split_first_chunk::<4>() else {
            self.left = 0;
            return Some(Err(FrameError::Cut("items are missing")));
        };
        if head[0] != 0xFF {
            // An item with an error is its four bytes, whatever its length says.
            self.rest = data;
            return Some(Ok(Err(head[0])));
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let length = if matches!(head[1], 3..=5) { length.div_ceil(8) } else { length };
        let Some(item) = data.get(..length) else {
            self.left = 0;
            return Some(Err(FrameError::Cut("an item is shorter than said")));
        };
        self.rest = data.get(length + length % 2..).unwrap_or_default();
        Some(Ok(Ok(item)))
    }
}

/// Bytes of a stream that become frames, answers, items and values; for fuzzing.
#[doc(hidden)]
pub fn fuzz_s7_frame(bytes: &[u8]) {
    let mut assembler = Assembler::default();
    for chunk in bytes.chunks(64) {
        assembler.buffer().extend_from_slice(chunk);
        while let Ok(Some(received)) = assembler.take() {
            if let Received::Data(pdu) = received {
                parse_all(&pdu);
            }
        }
    }
    parse_all(bytes);
}

fn parse_all(pdu: &[u8]) {
    let Ok(answer) = Answer::parse(pdu) else { return };
    let _ = (answer.agreed(), answer.written(), answer.user_data());
    let asked = answer.parameters.get(1).copied().unwrap_or(0);
    for item in answer.items(asked.into()).into_iter().flatten() {
        let _ = item;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    fn wrapped(pdu: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        wrap(pdu, 1024, &mut out);
        out
    }

    fn assemble(bytes: &[u8]) -> Result<Vec<Received>, FrameError> {
        let mut assembler = Assembler::default();
        assembler.buffer().extend_from_slice(bytes);
        std::iter::from_fn(|| assembler.take().transpose()).collect()
    }

    // The conversation of snap7's client with its server (python-snap7 2.0.2), but for the order of the connect's parameters and the sizes asked for.
    #[test]
    fn a_conversation_is_written_and_read_byte_by_byte() {
        assert_eq!(connect(0x0100, 0x0102), hex("03 00 00 16 11 E0 00 00 00 01 00 C1 02 01 00 C2 02 01 02 C0 01 0A"));
        assert_eq!(
            assemble(&hex("03 00 00 16 11 D0 00 01 00 01 00 C0 01 0A C1 02 01 00 C2 02 01 02")),
            Ok(vec![Received::Confirmed { tpdu: 1024 }])
        );
        let mut request = setup(480, 1);
        set_reference(&mut request, 0x0100);
        assert_eq!(wrapped(&request), hex("03 00 00 19 02 F0 80 32 01 00 00 01 00 00 08 00 00 F0 00 00 01 00 01 01 E0"));
        let answer = hex("32 03 00 00 01 00 00 08 00 00 00 00 F0 00 00 01 00 01 01 E0");
        assert_eq!(Answer::parse(&answer).unwrap().agreed(), Ok((480, 1)));
        let item = Item { area: Area::DataBlock, db: 1, byte: 20, len: 4, bit: None };
        let mut request = read(&[item]);
        set_reference(&mut request, 0x0200);
        assert_eq!(wrapped(&request), hex("03 00 00 1F 02 F0 80 32 01 00 00 02 00 00 0E 00 00 04 01 12 0A 10 02 00 04 00 01 84 00 00 A0"));
        let answer = hex("32 03 00 00 02 00 00 02 00 08 00 00 04 01 FF 04 00 20 01 02 03 04");
        let items: Vec<_> = Answer::parse(&answer).unwrap().items(1).unwrap().collect();
        assert_eq!(items, [Ok(Ok(&[1, 2, 3, 4][..]))]);
        let bit = Item { area: Area::Flags, db: 0, byte: 3, len: 1, bit: Some(5) };
        assert_eq!(write(&bit, &[1]), hex("32 01 00 00 00 00 00 0E 00 05 05 01 12 0A 10 01 00 01 00 00 83 00 00 1D 00 03 00 01 01"));
        let answer = hex("32 03 00 00 03 00 00 02 00 01 00 00 05 01 FF");
        assert_eq!(Answer::parse(&answer).unwrap().written(), Ok(0xFF));
    }

    #[test]
    fn timers_and_counters_are_addressed_by_number() {
        let item = Item { area: Area::Timers, db: 0, byte: 10, len: 4, bit: None };
        assert_eq!(read(&[item])[12..], hex("12 0A 10 1D 00 02 00 00 1D 00 00 05"));
        assert_eq!(write(&Item { len: 2, ..item }, &[0, 1])[24..], hex("00 09 00 02 00 01"));
    }

    #[test]
    fn an_item_with_an_error_is_its_four_bytes_whatever_it_says() {
        let answer = hex("32 03 00 00 02 00 00 02 00 11 00 00 04 03 0A 00 00 04 FF 04 00 08 07 00 FF 09 00 03 01 02 03");
        let items: Vec<_> = Answer::parse(&answer).unwrap().items(3).unwrap().collect();
        assert_eq!(items, [Ok(Err(0x0A)), Ok(Ok(&[7][..])), Ok(Ok(&[1, 2, 3][..]))]);
    }

    #[test]
    fn fewer_items_than_asked_for_are_an_error_of_the_job() {
        let answer = hex("32 03 00 00 02 00 00 02 00 08 00 00 04 01 FF 04 00 20 01 02 03 04");
        assert!(Answer::parse(&answer).unwrap().items(2).is_err());
        let cut = hex("32 03 00 00 02 00 00 02 00 08 00 00 04 02 FF 04 00 20 01 02 03 04");
        assert!(Answer::parse(&cut).unwrap().items(2).unwrap().any(|item| item.is_err()));
    }

    #[test]
    fn fragments_are_put_together_and_their_sum_is_bounded() {
        let pdu: Vec<u8> = (0..=255).cycle().take(900).collect();
        for tpdu in [128, 256, 1024] {
            let mut out = Vec::new();
            wrap(&pdu, tpdu, &mut out);
            assert_eq!(assemble(&out), Ok(vec![Received::Data(pdu.clone())]));
        }
        let mut endless = Vec::new();
        for _ in 0..100 {
            endless.extend(hex("03 00 01 07 02 F0 00"));
            endless.extend([0; 256]);
        }
        assert_eq!(assemble(&endless), Err(FrameError::Unbounded));
    }

    #[test]
    fn what_is_no_frame_is_refused_at_once() {
        assert_eq!(assemble(b"HTTP/1.1 400"), Err(FrameError::NotTpkt(b'H')));
        assert_eq!(assemble(&hex("03 00 00 04")), Err(FrameError::Length(4)));
        assert_eq!(assemble(&hex("03 00 FF FF 00")), Err(FrameError::Length(65535)));
        assert_eq!(assemble(&hex("03 00 00 0B 06 80 00 01 00 02 03")), Ok(vec![Received::Disconnected(3)]));
        // A confirmation without a size: 128 bytes.
        assert_eq!(assemble(&hex("03 00 00 0B 06 D0 00 01 00 02 00")), Ok(vec![Received::Confirmed { tpdu: 128 }]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..50) {
            let mut assembler = Assembler::default();
            for chunk in bytes.chunks(chunk) {
                assembler.buffer().extend_from_slice(chunk);
                while let Ok(Some(_)) = assembler.take() {}
            }
            parse_all(&bytes);
        }
    }
}
