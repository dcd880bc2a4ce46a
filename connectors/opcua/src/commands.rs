//! Commands to nodes and methods, and the acknowledgements of triggers: the only writes there are, and only where `floor: {writes: allowed}` says so.
//!
//! ```text
//! command ─> a variable: its type asked for, the value fitted ─> Write ─> [read it back]* ─> answer      * where the tag asks for it
//!         └> a method: its arguments asked for, each fitted   ─> Call ──────────────────────> answer
//! ```
//!
//! Invariants: a value fits exactly or is refused; nothing is sent twice; what the connection took with it is unknown.

use crate::arguments;
use crate::resolve::Resolver;
use crate::session::{Permission, Refused, Session, attribute_of, value_of};
use crate::shared::Shared;
use crate::wire::builtin;
use millrace_contract::{Command, CommandValue, Failure, Outcome, TagOptions};
use millrace_kit::fit::{Fitted, Machine, Unfit, fit};
use millrace_schemas::Micros;
use opcua::types::{AttributeId, CallMethodRequest, DataValue, NodeId, StatusCode as UaStatus, UAString, Variant, WriteValue};
use std::time::Duration;

/// How long a server may take to show a value that was written: gateways show what the device said last.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a value is not one for a node.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Misfit {
    #[error("{value} does not fit a {kind}")]
    Type { value: String, kind: &'static str },
    #[error(transparent)]
    Value(#[from] Unfit),
    #[error("the method takes {wanted} arguments, and the command has {given}: write `\"value\": [..]`, `[]` for none")]
    Arguments { wanted: usize, given: usize },
    #[error("argument {name}: {why}")]
    Argument { name: String, why: Box<Misfit> },
    #[error("arrays can't be written yet")]
    Array,
}

/// Carries out commands one after the other, for as long as the session lives.
pub async fn run_commands(shared: &Shared, session: &Session) -> Failure {
    let Some(permission) = Permission::of(shared.job.writes_allowed) else { return std::future::pending().await };
    loop {
        let Command { tag, value, expires, answer, .. } = shared.io.command().await;
        let handle = shared.readings.lock().handle_of(tag);
        let is_writable = |handle: usize| shared.readings.lock().item(handle).def.options.writable == Some(true);
        let outcome = match handle {
            None => Outcome::Refused("this tag is no node of its own".into()),
            Some(_) if expires < Micros::now() => Outcome::Expired,
            Some(handle) if !is_writable(handle) => Outcome::Refused("the tag is not writable: add `writable: true` to it".into()),
            Some(handle) => carry_out(permission, shared, session, handle, &value).await,
        };
        answer.send(outcome);
        if session.channel().closed().is_some() {
            return Failure::Reconnect(format!("the connection to {} broke while a command was carried out", shared.url()));
        }
    }
}

async fn carry_out(permission: Permission, shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Outcome {
    let index = shared.readings.lock().item(handle).index;
    let item = index.map(|index| &shared.job.polled.tags[index].address);
    if item.is_some_and(|item| item.object.is_some()) {
        return call(permission, shared, session, handle, value).await;
    }
    match write(permission, shared, session, handle, value).await {
        Outcome::Done if item.is_some_and(|item| item.read_back) => shown(shared, session, handle, value).await,
        outcome => outcome,
    }
}

/// A request that may have been carried out before the connection broke.
fn broken(session: &Session, refused: &Refused) -> Outcome {
    if session.channel().closed().is_some() || refused.status() == UaStatus::BadTimeout {
        tracing::warn!(%refused, "whether a command was carried out is not known");
        return Outcome::Unknown;
    }
    Outcome::Failed(refused.to_string())
}

/// The node of an item, and the value as its type has it.
async fn prepared(shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Result<(NodeId, Variant), Outcome> {
    let failed = |refused: Refused| Outcome::Failed(refused.to_string());
    let Some(Ok(node)) = shared.resolve(session, &[handle]).await.map_err(failed)?.pop() else {
        return Err(Outcome::Failed("the node is not there".into()));
    };
    let kind = shared.builtin_of(session, &node).await.map_err(failed)?;
    let options = shared.readings.lock().item(handle).def.options.clone();
    let variant = typed(value, kind, &options).map_err(|misfit| Outcome::Refused(misfit.to_string()))?;
    Ok((node, variant))
}

async fn write(permission: Permission, shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Outcome {
    let (node, variant) = match prepared(shared, session, handle, value).await {
        Ok(prepared) => prepared,
        Err(outcome) => return outcome,
    };
    match session.write(permission, &[request(node, variant)]).await {
        Ok(results) => match results.first() {
            Some(status) if status.is_bad() => Outcome::Failed(status.to_string()),
            Some(_) => Outcome::Done,
            None => Outcome::Unknown,
        },
        Err(refused) => broken(session, &refused),
    }
}

/// Whether the server shows the value that was written.
async fn shown(shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Outcome {
    let (node, wanted) = match prepared(shared, session, handle, value).await {
        Ok(prepared) => prepared,
        Err(_) => return Outcome::Unknown,
    };
    let begun = tokio::time::Instant::now();
    loop {
        let now = match session.read(&[value_of(node.clone())]).await.map(|mut values| values.pop()) {
            Ok(Some(now)) => now,
            Ok(None) | Err(_) => return Outcome::Unknown,
        };
        if now.value.as_ref() == Some(&wanted) && !now.status().is_bad() {
            return Outcome::Done;
        }
        if begun.elapsed() > SHOWN_WITHIN {
            let now = now.value.map_or_else(|| now.status.unwrap_or_default().to_string(), |value| value.to_string());
            return Outcome::Failed(format!("the server took {wanted}, and still shows {now}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Calls a method with the command's value as its arguments.
async fn call(permission: Permission, shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Outcome {
    let call = match calling(shared, session, handle, value).await {
        Ok(call) => call,
        Err(outcome) => return outcome,
    };
    let result = match session.methods(permission, &[call]).await.map(|mut results| results.pop()) {
        Ok(Some(result)) => result,
        Ok(None) => return Outcome::Unknown,
        Err(refused) => return broken(session, &refused),
    };
    if !result.status_code.is_bad() {
        return Outcome::Done;
    }
    let wrong = result.input_argument_results.into_iter().flatten().enumerate().filter(|(_, status)| status.is_bad());
    let wrong: Vec<String> = wrong.map(|(index, status)| format!("; argument {}: {status}", index + 1)).collect();
    Outcome::Failed(format!("{}{}", result.status_code, wrong.concat()))
}

async fn calling(shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Result<CallMethodRequest, Outcome> {
    let failed = |refused: Refused| Outcome::Failed(refused.to_string());
    let index = shared.readings.lock().item(handle).index;
    let Some(object) = index.and_then(|index| shared.job.polled.tags[index].address.object.as_ref()) else {
        return Err(Outcome::Refused("the tag is no method".into()));
    };
    let Some(Ok(method_id)) = shared.resolve(session, &[handle]).await.map_err(failed)?.pop() else {
        return Err(Outcome::Failed("the method is not there".into()));
    };
    let Some(Ok(object_id)) = Resolver::default().resolve(session, &[object]).await.map_err(failed)?.pop() else {
        return Err(Outcome::Failed("the method's object is not there".into()));
    };
    let wanted = arguments::of(shared, session, &method_id).await.map_err(failed)?;
    let given = match value {
        CommandValue::List(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let refused = |misfit: Misfit| Outcome::Refused(misfit.to_string());
    if given.len() != wanted.len() {
        return Err(refused(Misfit::Arguments { wanted: wanted.len(), given: given.len() }));
    }
    let mut input = Vec::with_capacity(given.len());
    for (value, argument) in given.iter().zip(wanted) {
        let fitted = if argument.is_array { Err(Misfit::Array) } else { typed(value, argument.builtin, &TagOptions::default()) };
        input.push(fitted.map_err(|why| refused(Misfit::Argument { name: argument.name, why: Box::new(why) }))?);
    }
    Ok(CallMethodRequest { object_id, method_id, input_arguments: Some(input) })
}

/// The value alone: many servers refuse a status or a time that a client writes.
fn request(node_id: NodeId, value: Variant) -> WriteValue {
    let of = attribute_of(node_id, AttributeId::Value);
    WriteValue {
        node_id: of.node_id,
        attribute_id: of.attribute_id,
        index_range: of.index_range,
        value: DataValue { value: Some(value), ..DataValue::null() },
    }
}

/// Acknowledges triggers, each once its document is synced.
pub async fn acknowledge(shared: &Shared, session: &Session) -> Failure {
    let Some(permission) = Permission::of(shared.job.writes_allowed) else { return std::future::pending().await };
    loop {
        let changed = shared.acknowledge.notified();
        let (write, after, at) = {
            let mut triggers = shared.triggers.lock();
            (triggers.due_write(), triggers.waits_after(), triggers.wakes_at())
        };
        let Some(write) = write else {
            tokio::select! {
                () = changed => {}
                durable = async { match after { Some(after) => shared.io.durable(after).await, None => std::future::pending().await } } => {
                    shared.triggers.lock().synced(durable);
                }
                () = async { match at { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
            continue;
        };
        let handle = shared.readings.lock().by_index(write.tag);
        let outcome = match handle {
            Some(handle) => self::write(permission, shared, session, handle, &write.value).await,
            None => Outcome::Failed("the acknowledging tag is read by another session".into()),
        };
        let outcome = match &outcome {
            Outcome::Done | Outcome::Returned(_) => Ok(()),
            Outcome::Failed(why) | Outcome::Refused(why) => Err(why.as_str()),
            Outcome::Expired | Outcome::Unknown => Err("whether it was written is not known"),
        };
        shared.triggers.lock().written(&write, outcome, &shared.io);
        if session.channel().closed().is_some() {
            return Failure::Reconnect(format!("the connection to {} broke while a trigger was acknowledged", shared.url()));
        }
    }
}

/// A command's value as the node's type has it. Errors: it does not fit exactly.
fn typed(value: &CommandValue, kind: u8, options: &TagOptions) -> Result<Variant, Misfit> {
    let misfit = || Misfit::Type { value: value.to_string(), kind: builtin::name(kind) };
    let machine = match kind {
        builtin::BOOLEAN => Machine::Bool,
        builtin::SBYTE => Machine::I8,
        builtin::BYTE => Machine::U8,
        builtin::INT16 => Machine::I16,
        builtin::UINT16 => Machine::U16,
        builtin::INT32 => Machine::I32,
        builtin::UINT32 => Machine::U32,
        builtin::INT64 => Machine::I64,
        builtin::UINT64 => Machine::U64,
        builtin::FLOAT => Machine::F32,
        builtin::DOUBLE => Machine::F64,
        builtin::STRING => {
            return match value {
                CommandValue::Text(text) => Ok(Variant::String(UAString::from(text.as_str()))),
                _ => Err(misfit()),
            };
        }
        // Any type will do: the value's own.
        builtin::VARIANT => {
            return Ok(match value {
                CommandValue::Bool(value) => Variant::Boolean(*value),
                CommandValue::Int(value) => Variant::Int64(*value),
                CommandValue::UInt(value) => Variant::UInt64(*value),
                CommandValue::Double(value) => Variant::Double(*value),
                CommandValue::Text(text) => Variant::String(UAString::from(text.as_str())),
                CommandValue::List(_) => return Err(Misfit::Array),
            });
        }
        _ => return Err(misfit()),
    };
    let fitted = fit(value, machine, options)?;
    let variant = match (machine, fitted) {
        (_, Fitted::Bool(value)) => Some(Variant::Boolean(value)),
        (_, Fitted::F32(value)) => Some(Variant::Float(value)),
        (_, Fitted::F64(value)) => Some(Variant::Double(value)),
        (Machine::I8, fitted) => fitted.whole().map(Variant::SByte),
        (Machine::U8, fitted) => fitted.whole().map(Variant::Byte),
        (Machine::I16, fitted) => fitted.whole().map(Variant::Int16),
        (Machine::U16, fitted) => fitted.whole().map(Variant::UInt16),
        (Machine::I32, fitted) => fitted.whole().map(Variant::Int32),
        (Machine::U32, fitted) => fitted.whole().map(Variant::UInt32),
        (Machine::I64, fitted) => fitted.whole().map(Variant::Int64),
        (_, fitted) => fitted.whole().map(Variant::UInt64),
    };
    variant.ok_or_else(misfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_fits_its_node_exactly_or_not_at_all() {
        let typed = |value, kind| super::typed(&value, kind, &TagOptions::default()).ok();
        assert_eq!(typed(CommandValue::Int(200), builtin::BYTE), Some(Variant::Byte(200)));
        assert_eq!(typed(CommandValue::Int(300), builtin::BYTE), None);
        assert_eq!(typed(CommandValue::Double(2.0), builtin::INT32), Some(Variant::Int32(2)));
        assert_eq!(typed(CommandValue::Double(2.5), builtin::INT32), None);
        assert_eq!(typed(CommandValue::Int(1), builtin::BOOLEAN), Some(Variant::Boolean(true)));
        assert_eq!(typed(CommandValue::Int(2), builtin::BOOLEAN), None);
        assert_eq!(typed(CommandValue::Text("x".into()), builtin::DOUBLE), None);
    }
}
