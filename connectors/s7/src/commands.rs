//! What is written: a command's value, and a trigger's acknowledgement. Nothing else in this crate makes a write request.

use crate::address::Address;
use crate::compiled::CompiledSource;
use crate::connection::{ConnectionError, Wire};
use crate::datatype::DataType;
use crate::frame::{self, Answer, Item};
use crate::reading::{Code, Refusal, read_bytes};
use crate::tag::TagAddress;
use millrace_contract::{Command, CommandValue, Condition, Outcome, TagOptions};
use millrace_kit::polled::Tag;
use millrace_schemas::{Batch, Micros, TagId};

/// Why nothing was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum No {
    /// The value does not fit; nothing was sent.
    Refused(String),
    /// The CPU refuses it.
    Failed(String),
}

impl No {
    pub fn why(&self) -> &str {
        match self {
            Self::Refused(why) | Self::Failed(why) => why,
        }
    }
}

/// Carries a command out and answers it. Whatever ends the connection meanwhile leaves it unanswered: its outcome is unknown.
pub async fn carry_out(compiled: &CompiledSource, ids: &[TagId], wire: &Wire, command: Command) {
    let Command { tag, value, conditions, expires, answer, .. } = command;
    let find = |tag: TagId| ids.iter().position(|id| *id == tag).map(|tag| &compiled.polled.tags[tag]);
    let Some(tag) = find(tag) else { return answer.send(Outcome::Refused("this source has no such tag".into())) };
    if !compiled.writes_allowed {
        return answer.send(Outcome::Refused("writes are forbidden".into()));
    }
    if tag.def.options.writable != Some(true) {
        return answer.send(Outcome::Refused(format!("`{}` is not writable: add `writable: true` to the tag", tag.name)));
    }
    for condition in conditions {
        let Some(of) = find(condition.tag) else {
            return answer.send(Outcome::Refused(format!("{} has no address: it can't be read before the write", condition.name)));
        };
        match holds(compiled, &condition, of, wire).await {
            Ok(Ok(())) => {}
            Ok(Err(outcome)) => return answer.send(outcome),
            Err(error) => return answer.send(Outcome::Failed(format!("{error}, before anything was written"))),
        }
    }
    if expires < Micros::now() {
        return answer.send(Outcome::Expired);
    }
    let TagAddress { address, read_back } = tag.address;
    let outcome = match write(compiled, &address, &value, &tag.def.options, wire).await {
        Ok(Ok(())) if read_back => match is_there(compiled, &address, &value, &tag.def.options, wire).await {
            Ok(outcome) => outcome,
            Err(_) => return,
        },
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(No::Refused(why))) => Outcome::Refused(why),
        Ok(Err(No::Failed(why))) => Outcome::Failed(why),
        // Dropped unanswered, it says that nobody knows.
        Err(_) => return,
    };
    answer.send(outcome);
}

/// Reads what must hold, fresh. The inner error: the answer of a command that must not be carried out.
async fn holds(
    compiled: &CompiledSource,
    condition: &Condition,
    of: &Tag<TagAddress>,
    wire: &Wire,
) -> Result<Result<(), Outcome>, ConnectionError> {
    let address = &of.address.address;
    let mut texts = Batch::new();
    let (value, status) = match read_bytes(wire, address).await? {
        Ok(bytes) => compiled.codec.decode(address, &bytes, &mut texts),
        Err(code) => {
            let why = Refusal::reading(*address, wire.endpoint(), code);
            return Ok(Err(Outcome::Failed(format!("{}: {why}; nothing was written", condition.name))));
        }
    };
    Ok(condition.check(value, status, &texts.heap, &of.def.options).map_err(|why| Outcome::Refused(why.into())))
}

/// Writes one value. The inner error: it does not fit, or the CPU refuses it; nothing was changed.
pub async fn write(
    compiled: &CompiledSource,
    address: &Address,
    value: &CommandValue,
    options: &TagOptions,
    wire: &Wire,
) -> Result<Result<(), No>, ConnectionError> {
    let encoded = match compiled.codec.encode(address, value, options) {
        Ok(encoded) => encoded,
        Err(error) => return Ok(Err(No::Refused(error.to_string()))),
    };
    if encoded.offset > 0 {
        // What the block itself declares may be less than what the tag says.
        let head = Address { kind: if encoded.offset == 1 { DataType::Byte } else { DataType::Word }, ..*address };
        let max = match read_bytes(wire, &head).await? {
            Ok(bytes) => bytes.iter().fold(0, |max, byte| max << 8 | usize::from(*byte)),
            Err(code) => return Ok(Err(No::Failed(Refusal::reading(*address, wire.endpoint(), code).to_string()))),
        };
        let length = if encoded.offset == 1 { encoded.bytes.len() - 1 } else { encoded.bytes.len() / 2 - 1 };
        if length > max {
            return Ok(Err(No::Refused(format!("the text has {length} characters, and the block declares {max} at {address}"))));
        }
    }
    let is_bit = address.kind == DataType::Bool;
    let item = Item {
        area: address.area,
        db: address.db,
        byte: address.byte + encoded.offset as u32,
        len: encoded.bytes.len() as u16,
        bit: is_bit.then_some(address.bit),
    };
    // One item: 28 bytes around it.
    if encoded.bytes.len() + 28 > usize::from(wire.pdu) {
        let why = format!("{} bytes are more than one request holds with a PDU of {} bytes", encoded.bytes.len(), wire.pdu);
        return Ok(Err(No::Refused(why)));
    }
    let pdu = wire.ask_first(frame::write(&item, &encoded.bytes)).await.answer().await;
    let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
    let code = if answer.error == 0 { Code(answer.written().map_err(|error| wire.foreign(error))?.into()) } else { Code(answer.error) };
    if code == Code::GOOD {
        return Ok(Ok(()));
    }
    Ok(Err(No::Failed(Refusal::writing(*address, wire.endpoint(), code).to_string())))
}

/// Whether the CPU has the value that was written.
async fn is_there(
    compiled: &CompiledSource,
    address: &Address,
    value: &CommandValue,
    options: &TagOptions,
    wire: &Wire,
) -> Result<Outcome, ConnectionError> {
    let bytes = match read_bytes(wire, address).await? {
        Ok(bytes) => bytes,
        Err(code) => return Ok(Outcome::Failed(Refusal::reading(*address, wire.endpoint(), code).to_string())),
    };
    let Ok(encoded) = compiled.codec.encode(address, value, options) else { return Ok(Outcome::Unknown) };
    let is_same = match address.kind {
        DataType::Bool => bytes[0] >> address.bit & 1 == encoded.bytes[0],
        _ => bytes.get(encoded.offset..encoded.offset + encoded.bytes.len()) == Some(&encoded.bytes[..]),
    };
    if is_same {
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Failed(format!(
        "written, but {address} has {bytes:02x?} afterwards, not {:02x?}: the program of the PLC set it back",
        encoded.bytes
    )))
}
