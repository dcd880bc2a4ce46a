//! Commands to nodes, and the acknowledgements of triggers: the only writes there are, and only where `floor: {writes: allowed}` says so.

use crate::session::{Session, attribute_of};
use crate::shard::Shared;
use crate::wire::builtin;
use millrace_contract::{AckId, Command, CommandValue, Failure, Outcome};
use millrace_schemas::Micros;
use opcua::types::{AttributeId, DataValue, NodeId, UAString, Variant, WriteValue};

/// Carries out commands one after the other, for as long as the session lives.
pub async fn obey(shared: &Shared, session: &Session) -> Failure {
    if !shared.job.writes_allowed {
        return std::future::pending().await;
    }
    loop {
        let Command { tag, value, expires, answer, .. } = shared.io.command().await;
        let handle = shared.readings.lock().await.handle_of(tag);
        let outcome = match handle {
            None => Outcome::Refused("this tag is no node of its own".into()),
            Some(_) if expires < Micros::now() => Outcome::Expired,
            Some(handle) => write(shared, session, handle, &value).await,
        };
        answer.send(outcome);
        if session.channel().closed().is_some() {
            return Failure::Reconnect(format!("the connection to {} broke while a command was carried out", shared.url()));
        }
    }
}

async fn write(shared: &Shared, session: &Session, handle: usize, value: &CommandValue) -> Outcome {
    let node = match shared.resolve(session, &[handle]).await.map(|mut nodes| nodes.pop()) {
        Ok(Some(Ok(node))) => node,
        Ok(_) => return Outcome::Failed("the node is not there".into()),
        Err(refused) => return Outcome::Failed(refused.to_string()),
    };
    let kind = match shared.builtin_of(session, &node).await {
        Ok(kind) => kind,
        Err(refused) => return Outcome::Failed(refused.to_string()),
    };
    let Some(variant) = typed(value, kind) else {
        return Outcome::Refused(format!("{value:?} does not fit a {}", builtin::name(kind)));
    };
    match session.write(&[request(node, variant)]).await {
        Ok(results) => match results.first() {
            Some(status) if status.is_bad() => Outcome::Failed(status.to_string()),
            Some(_) => Outcome::Done,
            None => Outcome::Unknown,
        },
        // It may have been carried out before the connection broke.
        Err(refused) if session.channel().closed().is_some() => {
            tracing::warn!(%refused, "whether a command was carried out is not known");
            Outcome::Unknown
        }
        Err(refused) => Outcome::Failed(refused.to_string()),
    }
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

/// Sets the acknowledging tags of triggers, each once its document is synced.
pub async fn acknowledge(shared: &Shared, session: &Session) -> Failure {
    if !shared.job.writes_allowed {
        return std::future::pending().await;
    }
    let mut durable = AckId(0);
    loop {
        let Some((id, handle)) = shared.next_acknowledge().await else { return std::future::pending().await };
        while durable < id {
            durable = shared.io.durable(durable).await;
        }
        if let Outcome::Failed(why) | Outcome::Refused(why) = write(shared, session, handle, &CommandValue::Bool(true)).await {
            let path = shared.readings.lock().await.item(handle).def.path.clone();
            tracing::warn!(tag = path, why, "a trigger was not acknowledged");
        }
        if session.channel().closed().is_some() {
            return Failure::Reconnect(format!("the connection to {} broke while a trigger was acknowledged", shared.url()));
        }
    }
}

/// A command's value as the node's type has it; `None` where it does not fit exactly.
fn typed(value: &CommandValue, kind: u8) -> Option<Variant> {
    let whole = || match value {
        CommandValue::Bool(value) => Some(i128::from(*value)),
        CommandValue::Int(value) => Some(i128::from(*value)),
        CommandValue::UInt(value) => Some(i128::from(*value)),
        CommandValue::Double(value) if value.fract() == 0.0 && value.abs() < 1e18 => Some(*value as i128),
        _ => None,
    };
    let number = || match value {
        CommandValue::Int(value) => Some(*value as f64),
        CommandValue::UInt(value) => Some(*value as f64),
        CommandValue::Double(value) => Some(*value),
        _ => None,
    };
    Some(match kind {
        builtin::BOOLEAN => match value {
            CommandValue::Bool(value) => Variant::Boolean(*value),
            _ => match whole()? {
                0 => Variant::Boolean(false),
                1 => Variant::Boolean(true),
                _ => return None,
            },
        },
        builtin::SBYTE => Variant::SByte(whole()?.try_into().ok()?),
        builtin::BYTE => Variant::Byte(whole()?.try_into().ok()?),
        builtin::INT16 => Variant::Int16(whole()?.try_into().ok()?),
        builtin::UINT16 => Variant::UInt16(whole()?.try_into().ok()?),
        builtin::INT32 => Variant::Int32(whole()?.try_into().ok()?),
        builtin::UINT32 => Variant::UInt32(whole()?.try_into().ok()?),
        builtin::INT64 => Variant::Int64(whole()?.try_into().ok()?),
        builtin::UINT64 => Variant::UInt64(whole()?.try_into().ok()?),
        builtin::FLOAT => Variant::Float(number()? as f32),
        builtin::DOUBLE => Variant::Double(number()?),
        builtin::STRING => match value {
            CommandValue::Text(text) => Variant::String(UAString::from(text.as_str())),
            _ => return None,
        },
        // Any type will do: the value's own.
        builtin::VARIANT => match value {
            CommandValue::Bool(value) => Variant::Boolean(*value),
            CommandValue::Int(value) => Variant::Int64(*value),
            CommandValue::UInt(value) => Variant::UInt64(*value),
            CommandValue::Double(value) => Variant::Double(*value),
            CommandValue::Text(text) => Variant::String(UAString::from(text.as_str())),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_fits_its_node_exactly_or_not_at_all() {
        assert_eq!(typed(&CommandValue::Int(200), builtin::BYTE), Some(Variant::Byte(200)));
        assert_eq!(typed(&CommandValue::Int(300), builtin::BYTE), None);
        assert_eq!(typed(&CommandValue::Double(2.0), builtin::INT32), Some(Variant::Int32(2)));
        assert_eq!(typed(&CommandValue::Double(2.5), builtin::INT32), None);
        assert_eq!(typed(&CommandValue::Int(1), builtin::BOOLEAN), Some(Variant::Boolean(true)));
        assert_eq!(typed(&CommandValue::Int(2), builtin::BOOLEAN), None);
        assert_eq!(typed(&CommandValue::Text("x".into()), builtin::DOUBLE), None);
    }
}
