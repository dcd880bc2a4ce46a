//! Reads groups of tags: their jobs in flight at once, their answers into one image, what is refused isolated and tried again by itself.
//!
//! ```text
//! group ──Batching──> jobs ──> answers ──> image + a code per piece
//!                      ^                      │
//!                      └── cut in the middle, in the same cycle, until the bad tag stands alone; it is then left out and tried
//!                          again by itself, ever more slowly
//! ```
//!
//! Invariants: a refused tag costs no other tag its value; a job with fewer items than asked for is an error of the connection, not of tags.

use crate::address::{Address, Area};
use crate::batching::{Batching, Cuts, item_max};
use crate::connection::{ConnectionError, Wire};
use crate::frame::{self, Answer, Item};
use millrace_kit::retry::{Backoff, Retries};
use millrace_schemas::StatusCode;
use std::time::Duration;
use thiserror::Error;

/// What a CPU says of an item: FF is good. Above 255: the error of the whole job, class and code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(pub u16);

impl Code {
    pub const GOOD: Self = Self(0xFF);
    const BEYOND: Self = Self(0x05);
    /// The service is refused: PUT/GET is off, or the CPU did not like the request.
    pub const REFUSED: Self = Self(0x8104);

    pub const fn status(self) -> StatusCode {
        match self.0 {
            0xFF => StatusCode::GOOD,
            0x01 => StatusCode::BAD_DEVICE_FAILURE,
            0x03 | 0x8104 | 0x8304 | 0xD241 => StatusCode(0x801F_0000), // BadUserAccessDenied
            0x05 | 0x0A => StatusCode::BAD_NOT_FOUND,
            0x06 | 0x07 => StatusCode::BAD_TYPE_MISMATCH,
            _ => StatusCode::BAD,
        }
    }
}

/// Why one tag can't be read or written, as a person needs it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("cannot {doing} {address} {preposition} {endpoint}: {}", self.why())]
pub struct Refusal {
    pub doing: &'static str,
    pub preposition: &'static str,
    pub address: Address,
    pub endpoint: String,
    pub code: Code,
}

/// The way out of what classic S7 communication can't do.
const OPC_UA: &str = "or read it by OPC UA, which needs neither";

impl Refusal {
    pub fn reading(address: Address, endpoint: &str, code: Code) -> Self {
        Self { doing: "read", preposition: "from", address, endpoint: endpoint.into(), code }
    }

    pub fn writing(address: Address, endpoint: &str, code: Code) -> Self {
        Self { doing: "write", preposition: "to", address, endpoint: endpoint.into(), code }
    }

    fn why(&self) -> String {
        let Address { area, db, .. } = self.address;
        let end = self.address.end();
        match (self.code.0, area) {
            (0x05, Area::DataBlock) => format!(
                "block is shorter than {end} bytes; check the offset or the DB's length in TIA, and that DB{db} is no optimised block (its attribute \
                 \"Optimized block access\" must be off, {OPC_UA})"
            ),
            (0x05, _) => format!("the CPU has less than {end} bytes there; check the address"),
            (0x0A, Area::DataBlock) => format!(
                "the CPU has no block DB{db}, or it is an optimised one; check its number, and that its attribute \"Optimized block access\" is off, {OPC_UA}"
            ),
            (0x0A, _) => "the CPU has nothing there; check the address".into(),
            (0x03, _) => {
                "access is denied; check the protection level of the CPU and that the block is not write-protected or only in load memory"
                    .into()
            }
            (0x01, _) => "hardware fault: the module does not answer".into(),
            (0x06 | 0x07, _) => "the CPU does not know this type of request there".into(),
            (0x8104 | 0x8304, _) => put_get(),
            (0xD241, _) => "the CPU asks for a password; lower its protection level, or use OPC UA".into(),
            (code, _) => format!("the CPU answers with error {code:#06x}"),
        }
    }
}

/// The cause of a refused service, and the ways out.
pub fn put_get() -> String {
    "the CPU refuses the service: \"Permit access with PUT/GET communication from remote partner\" is off (TIA: properties of the CPU, Protection & Security, \
     Connection mechanisms; takes effect after downloading the hardware configuration). The box opens the CPU to everybody in its network: where that \
     must not be, read it by OPC UA"
        .into()
}

const AGAIN: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
/// Cuts per cycle, at most: 2^16 tags stand alone after so many.
const ROUNDS_MOST: usize = 20;

/// Reads the tags of one connection.
#[derive(Debug)]
pub struct Reader {
    addresses: std::sync::Arc<[Address]>,
    gap_bytes: u32,
    pdu: u16,
    groups: Vec<Group>,
    cuts: Cuts,
    refused: Retries<usize, Code>,
}

#[derive(Debug, Default)]
struct Group {
    tags: std::ops::Range<usize>,
    /// `None`: to be made anew, something was learnt.
    batching: Option<Batching>,
    image: Vec<u8>,
    /// A job was refused as a whole: one item per job, so that only what is at fault suffers.
    is_single: bool,
}

/// A piece that was refused.
struct Refused {
    group: usize,
    piece: usize,
    code: Code,
    /// The whole job was refused, and it had other pieces.
    with_others: bool,
}

/// Where a group's bytes lie after a read.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    batching: &'a Batching,
    bytes: &'a [u8],
}

impl Image<'_> {
    pub fn of(&self, tag: usize, size: usize) -> &[u8] {
        let place = self.batching.places[tag];
        self.bytes.get(place..place + size).unwrap_or_default()
    }
}

impl Reader {
    pub fn new(addresses: std::sync::Arc<[Address]>, groups: impl IntoIterator<Item = std::ops::Range<usize>>, gap_bytes: u32) -> Self {
        let groups = groups.into_iter().map(|tags| Group { tags, ..Group::default() }).collect();
        Self { addresses, gap_bytes, pdu: 0, groups, cuts: Cuts::new(), refused: Retries::new(AGAIN) }
    }

    /// A new connection: what was learnt on the last one may be no longer so.
    pub fn connected(&mut self, pdu: u16) {
        self.pdu = pdu;
        self.cuts.clear();
        self.refused.clear();
        for group in &mut self.groups {
            group.is_single = false;
        }
        self.forget();
    }

    fn forget(&mut self) {
        for group in &mut self.groups {
            group.batching = None;
        }
    }

    /// The code of a tag that is left out; `None`: it was read.
    pub fn refused(&self, tag: usize) -> Option<Code> {
        if self.refused.is_empty() { None } else { self.refused.why(&tag).copied() }
    }

    pub fn all_refused(&self) -> impl Iterator<Item = (usize, Code)> + '_ {
        self.refused.iter().map(|(tag, code)| (*tag, *code))
    }

    pub fn image(&self, group: usize) -> Option<Image<'_>> {
        let group = &self.groups[group];
        Some(Image { batching: group.batching.as_ref()?, bytes: &group.image })
    }

    /// Reads groups whole. Returns whether other tags are refused than before.
    pub async fn read(&mut self, groups: &[usize], wire: &Wire) -> Result<bool, ConnectionError> {
        let mut changed = self.try_again(groups, wire).await?;
        // Each group's bytes must come from now: after a cut only what was cut is read again, unless the layout changed, which is once.
        for round in 0..=ROUNDS_MOST {
            let mut asked = Vec::new();
            for group in groups {
                self.prepare(*group);
                let Some(batching) = &self.groups[*group].batching else { continue };
                for job in 0..batching.jobs.len() {
                    let items: Vec<_> = batching.items(job).collect();
                    asked.push((*group, job, wire.ask(frame::read(&items)).await));
                }
            }
            let mut refusals = Vec::new();
            for (group, job, asked) in asked {
                let pdu = asked.answer().await;
                self.take(group, job, &pdu, wire, &mut refusals)?;
            }
            if refusals.is_empty() {
                break;
            }
            changed = true;
            self.learn(&refusals, round == ROUNDS_MOST);
        }
        Ok(changed)
    }

    fn prepare(&mut self, group: usize) {
        let of = &mut self.groups[group];
        if of.batching.is_none() {
            let wanted = of.tags.clone().filter(|tag| !self.refused.contains(tag));
            let mut batching = Batching::new(&self.addresses, wanted, self.pdu, self.gap_bytes, &self.cuts);
            if of.is_single {
                batching.jobs = (0..batching.pieces.len()).map(|piece| vec![piece]).collect();
            }
            of.image.resize(batching.image_len, 0);
            of.batching = Some(batching);
        }
    }

    /// Copies an answer's items into the image; notes the pieces that are refused.
    fn take(&mut self, group: usize, job: usize, pdu: &[u8], wire: &Wire, refusals: &mut Vec<Refused>) -> Result<(), ConnectionError> {
        let Group { batching: Some(batching), image, .. } = &mut self.groups[group] else { return Ok(()) };
        let pieces = &batching.jobs[job];
        let answer = Answer::parse(pdu).map_err(|error| wire.foreign(error))?;
        if answer.error != 0 {
            let (code, with_others) = (Code(answer.error), pieces.len() > 1);
            refusals.extend(pieces.iter().map(|piece| Refused { group, piece: *piece, code, with_others }));
            return Ok(());
        }
        let items = answer.items(pieces.len()).map_err(|error| wire.foreign(error))?;
        for (index, item) in pieces.iter().zip(items) {
            let piece = &batching.pieces[*index];
            match item.map_err(|error| wire.foreign(error))? {
                Ok(bytes) if bytes.len() == usize::from(piece.item.len) => {
                    image[piece.image..piece.image + bytes.len()].copy_from_slice(bytes);
                }
                Ok(_) => return Err(wire.foreign(frame::FrameError::Foreign("an item has not as many bytes as were asked for"))),
                Err(code) => refusals.push(Refused { group, piece: *index, code: Code(code.into()), with_others: false }),
            }
        }
        Ok(())
    }

    /// Cuts the pieces that were refused, and leaves out the tags that stand alone.
    fn learn(&mut self, refusals: &[Refused], is_last: bool) {
        for Refused { group, piece, code, with_others } in refusals {
            if *with_others && !is_last {
                self.groups[*group].is_single = true;
                continue;
            }
            let Some(batching) = &self.groups[*group].batching else { continue };
            let piece = &batching.pieces[*piece];
            // A block that is not there, or denied, is so for all of its tags; a refused job may be so for one item's sake.
            let may_be_partial = *code == Code::BEYOND || code.0 > 0xFF;
            match batching.cut(piece, &self.addresses).filter(|cut| may_be_partial && !is_last && !self.cuts.contains(cut)) {
                Some(cut) => _ = self.cuts.insert(cut),
                None => {
                    for tag in batching.tags(piece) {
                        self.refused.failed(*tag, *code);
                    }
                }
            }
        }
        self.forget();
    }

    /// Tries those of the refused tags whose time has come, each by itself. Returns whether one of them works.
    async fn try_again(&mut self, groups: &[usize], wire: &Wire) -> Result<bool, ConnectionError> {
        let mut works = false;
        if self.refused.is_empty() {
            return Ok(false);
        }
        for tag in self.refused.due() {
            if !groups.iter().any(|group| self.groups[*group].tags.contains(&tag)) {
                continue;
            }
            let batching = Batching::new(&self.addresses, [tag], self.pdu, 0, &Cuts::new());
            let mut code = Code::GOOD;
            for job in 0..batching.jobs.len() {
                let items: Vec<_> = batching.items(job).collect();
                let pdu = wire.ask(frame::read(&items)).await.answer().await;
                let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
                if answer.error != 0 {
                    code = Code(answer.error);
                    continue;
                }
                for item in answer.items(items.len()).map_err(|error| wire.foreign(error))? {
                    if let Err(refused) = item.map_err(|error| wire.foreign(error))? {
                        code = Code(refused.into());
                    }
                }
            }
            if code == Code::GOOD {
                works = true;
                self.refused.succeeded(&tag);
            } else {
                self.refused.failed(tag, code);
            }
        }
        if works {
            self.cuts.clear();
            self.forget();
        }
        Ok(works)
    }
}

/// Reads one address by itself, before what waits; in several items where it is greater than one may be.
pub async fn read_bytes(wire: &Wire, address: &Address) -> Result<Result<Vec<u8>, Code>, ConnectionError> {
    let mut bytes = Vec::with_capacity(address.size());
    let max = item_max(wire.pdu);
    while bytes.len() < address.size() {
        let len = (address.size() - bytes.len()).min(max) as u16;
        let item = Item { area: address.area, db: address.db, byte: address.byte + bytes.len() as u32, len, bit: None };
        let pdu = wire.ask_first(frame::read(&[item])).await.answer().await;
        let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
        if answer.error != 0 {
            return Ok(Err(Code(answer.error)));
        }
        match answer.items(1).map_err(|error| wire.foreign(error))?.next() {
            Some(Ok(Ok(part))) if part.len() == usize::from(len) => bytes.extend_from_slice(part),
            Some(Ok(Err(code))) => return Ok(Err(Code(code.into()))),
            Some(Err(error)) => return Err(wire.foreign(error)),
            _ => return Err(wire.foreign(frame::FrameError::Foreign("an item has not as many bytes as were asked for"))),
        }
    }
    Ok(Ok(bytes))
}
