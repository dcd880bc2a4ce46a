//! A command's value as the metric that a node or device is sent: NCMD, DCMD.
//!
//! A metric that was born with an alias is sent by its alias alone, any other by its name. Values are judged by the datatype of the birth.
//!
//! Source: Sparkplug 3.0.0, sections 6.4.9 and 6.4.10, tck-id-payloads-alias-data-cmd-requirement.

use super::address::{Address, NAMESPACE};
use super::datatype::DataType;
use super::wire::write;
use crate::command::Publishing;
use crate::packet::Qos;
use millrace_config::Reason;
use millrace_contract::{CommandValue, TagOptions};
use millrace_kit::fit::{Fitted, Machine, fit};
use millrace_schemas::Micros;
use std::time::Duration;

/// The metric that is commanded.
pub struct Target<'a> {
    pub address: Address<'a>,
    pub name: &'a str,
    pub alias: Option<u64>,
    pub datatype: DataType,
    pub options: &'a TagOptions,
    pub confirm: Option<Duration>,
}

/// Errors: why the value can't be sent.
pub fn publishing(target: &Target<'_>, value: &CommandValue, time: Micros) -> Result<Publishing, Reason> {
    let millis = time.as_millis().max(0) as u64;
    let mut metric = Vec::new();
    match target.alias {
        Some(alias) => write::number(&mut metric, 2, alias),
        None => write::bytes(&mut metric, 1, target.name.as_bytes()),
    }
    write::number(&mut metric, 3, millis);
    write::number(&mut metric, 4, target.datatype as u64);
    let wanted = push(&mut metric, target, value)?;
    let mut payload = Vec::new();
    write::number(&mut payload, 1, millis);
    write::bytes(&mut payload, 2, &metric);
    let Address { group, node, device, .. } = &target.address;
    let topic =
        if device.is_empty() { format!("{NAMESPACE}/{group}/NCMD/{node}") } else { format!("{NAMESPACE}/{group}/DCMD/{node}/{device}") };
    // tck-id-payloads-ncmd-qos, tck-id-payloads-dcmd-qos
    Ok(Publishing { topic, payload, qos: Qos::AtMostOnce, confirm: target.confirm, wanted })
}

/// Appends the value; returns it as the node will report it.
fn push(out: &mut Vec<u8>, target: &Target<'_>, value: &CommandValue) -> Result<CommandValue, Reason> {
    use DataType as T;
    let machine = match target.datatype {
        T::Int8 => Machine::I8,
        T::Int16 => Machine::I16,
        T::Int32 => Machine::I32,
        T::Int64 | T::DateTime => Machine::I64,
        T::UInt8 => Machine::U8,
        T::UInt16 => Machine::U16,
        T::UInt32 => Machine::U32,
        T::UInt64 => Machine::U64,
        T::Float => Machine::F32,
        T::Double => Machine::F64,
        T::Boolean => Machine::Bool,
        T::String | T::Text | T::UUID => {
            let CommandValue::Text(text) = value else { return Err(format!("a text is asked for, not {value:?}").into()) };
            write::bytes(out, 15, text.as_bytes());
            return Ok(value.clone());
        }
        other => return Err(format!("a metric of type {} can't be commanded", other.as_str()).into()),
    };
    let fitted = fit(value, machine, target.options).map_err(|unfit| unfit.to_string())?;
    Ok(match fitted {
        Fitted::Bool(on) => {
            write::number(out, 14, on.into());
            CommandValue::Bool(on)
        }
        Fitted::F32(number) => {
            write::fixed32(out, 12, number.to_bits());
            CommandValue::Double(number.into())
        }
        Fitted::F64(number) => {
            write::fixed64(out, 13, number.to_bits());
            CommandValue::Double(number)
        }
        Fitted::Whole(whole) if target.datatype == T::DateTime => {
            // Samples carry microseconds, Sparkplug milliseconds.
            if whole % 1000 != 0 {
                return Err(format!("{whole} microseconds are not whole milliseconds, which the metric has").into());
            }
            write::number(out, 11, (whole / 1000) as u64);
            CommandValue::Int(whole as i64)
        }
        // Two's complement of 32 bits, then of 64.
        Fitted::Whole(whole) if matches!(machine, Machine::I64 | Machine::U64) => {
            write::number(out, 11, whole as u64);
            i64::try_from(whole).map_or(CommandValue::UInt(whole as u64), CommandValue::Int)
        }
        Fitted::Whole(whole) => {
            write::number(out, 10, u64::from(whole as u32));
            CommandValue::Int(whole as i64)
        }
    })
}
