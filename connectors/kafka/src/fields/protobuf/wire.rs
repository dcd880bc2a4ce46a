//! Fields of a message as they lie in its bytes.

use millrace_schemas::varint;

pub(super) const VARINT: u8 = 0;
pub(super) const EIGHT: u8 = 1;
pub(super) const BYTES: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
pub(super) const FOUR: u8 = 5;

/// The highest number of a field.
const NUMBERS: u64 = (1 << 29) - 1;
/// Groups within groups.
const GROUPS: usize = 100;

/// One field, borrowed.
pub(super) struct Field<'b> {
    pub number: u32,
    pub wire: u8,
    /// With its number and length.
    pub raw: &'b [u8],
    pub payload: &'b [u8],
}

/// Takes the next field; a group is one, without a payload. `None`: there is none.
pub(super) fn next<'b>(rest: &mut &'b [u8]) -> Option<Field<'b>> {
    let before = *rest;
    let (number, wire) = tag(rest)?;
    let payload = match wire {
        GROUP => {
            group(rest, number)?;
            &[]
        }
        wire => payload(rest, wire)?,
    };
    Some(Field { number, wire, raw: &before[..before.len() - rest.len()], payload })
}

fn tag(rest: &mut &[u8]) -> Option<(u32, u8)> {
    let (tag, len) = varint::read(rest).ok()?;
    *rest = &rest[len..];
    let number = tag >> 3;
    if !(1..=NUMBERS).contains(&number) {
        return None;
    }
    Some((u32::try_from(number).ok()?, (tag & 7) as u8))
}

fn payload<'b>(rest: &mut &'b [u8], wire: u8) -> Option<&'b [u8]> {
    let len = match wire {
        VARINT => varint::read(rest).ok()?.1,
        EIGHT => 8,
        FOUR => 4,
        BYTES => {
            let (len, of_len) = varint::read(rest).ok()?;
            *rest = &rest[of_len..];
            usize::try_from(len).ok()?
        }
        _ => return None,
    };
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

/// Reads over a group that has begun.
fn group(rest: &mut &[u8], number: u32) -> Option<()> {
    let mut open = vec![number];
    while let Some(last) = open.last() {
        match tag(rest)? {
            (number, GROUP) if open.len() < GROUPS => open.push(number),
            (number, GROUP_END) if number == *last => _ = open.pop(),
            (_, GROUP | GROUP_END) => return None,
            (_, wire) => _ = payload(rest, wire)?,
        }
    }
    Some(())
}

/// Appends a field of bytes.
pub(super) fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint::push(out, u64::from(number) << 3 | u64::from(BYTES));
    varint::push(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
