//! Where connectors are: the offsets of a sink's group, the positions of a source.

use super::answer::{Answer, Fault, fault, json_body, not_there};
use crate::shared::{Console, Shared};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use millrace_engine::hold::Role;
use millrace_engine::offsets::{OffsetsError, TopicPartition};
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn show(State(console): Shared, Path(name): Path<String>) -> Answer {
    let one = console.find(&name, || not_there(&name)).await?;
    let offsets: Vec<Value> = match one.role {
        Role::Source => {
            let position = |(key, value): (String, Vec<u8>)| json!({ "partition": { "key": key }, "offset": { "position": String::from_utf8_lossy(&value) } });
            console.engine.source_positions(&one.own).into_iter().map(position).collect()
        }
        Role::Sink => {
            let engine = console.engine.clone();
            let found = tokio::task::spawn_blocking(move || engine.sink_offsets(&one.own)).await;
            let found =
                found.map_err(|_| Fault(StatusCode::INTERNAL_SERVER_ERROR, "the question ended in a panic; please report it".into()))?;
            let offset = |(part, offset): (TopicPartition, i64)| json!({ "partition": { "kafka_topic": &*part.topic, "kafka_partition": part.partition }, "offset": { "kafka_offset": offset } });
            found.map_err(Fault::from)?.into_iter().map(offset).collect()
        }
    };
    Ok(Json(json!({ "offsets": offsets })).into_response())
}

impl From<OffsetsError> for Fault {
    fn from(error: OffsetsError) -> Self {
        let code = match &error {
            OffsetsError::Unknown(_) => StatusCode::NOT_FOUND,
            OffsetsError::Kafka(_) => StatusCode::INTERNAL_SERVER_ERROR,
            OffsetsError::NotStopped(name) => {
                let message = format!(
                    "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
                );
                return Self(StatusCode::BAD_REQUEST, message);
            }
            OffsetsError::OfTheTarget(_) | OffsetsError::Elsewhere { .. } => StatusCode::BAD_REQUEST,
        };
        Self(code, error.to_string())
    }
}

/// The sink's name in the file.
async fn sink(console: &Arc<Console>, name: &str) -> Result<String, Fault> {
    let one = console.find(name, || not_there(name)).await?;
    match one.role {
        Role::Sink => Ok(one.own),
        Role::Source => fault(
            StatusCode::BAD_REQUEST,
            format!("the positions of source {name} are its own and can't be changed; a source under another name begins anew"),
        ),
    }
}

pub async fn alter(State(console): Shared, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = json_body(&headers, &body)?;
    let asked = body["offsets"].as_array().filter(|asked| !asked.is_empty());
    let Some(asked) = asked else {
        return fault(StatusCode::BAD_REQUEST, "Partitions / offsets need to be provided for an alter offsets request");
    };
    let own = sink(&console, &name).await?;
    let mut offsets = Vec::new();
    for one in asked {
        let (topic, partition) = (&one["partition"]["kafka_topic"], &one["partition"]["kafka_partition"]);
        let Some((topic, partition)) = topic.as_str().zip(number(partition)) else {
            let why = "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'";
            return fault(StatusCode::BAD_REQUEST, why);
        };
        let Some(partition) = i32::try_from(partition).ok().filter(|partition| *partition >= 0) else {
            return fault(StatusCode::BAD_REQUEST, format!("{partition} is no partition"));
        };
        let Some(offset) = number(&one["offset"]["kafka_offset"]).filter(|offset| *offset >= 0) else {
            let why = format!(
                "the offset of {topic} [{partition}] must be a number under `kafka_offset`, found {}; DELETE forgets all of them",
                one["offset"]
            );
            return fault(StatusCode::BAD_REQUEST, why);
        };
        offsets.push((TopicPartition::new(topic, partition), offset));
    }
    console.engine.move_sink(&own, &offsets).await?;
    Ok(Json(json!({ "message": "The offsets for this connector have been altered successfully" })).into_response())
}

/// A number, also one in quotes: some clients write texts.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

pub async fn reset(State(console): Shared, Path(name): Path<String>) -> Answer {
    let own = sink(&console, &name).await?;
    console.engine.forget_sink(&own).await?;
    Ok(Json(json!({ "message": "The offsets for this connector have been reset successfully" })).into_response())
}
