//! What each request does: judged against the state, written, answered. Words and codes are Confluent's.

mod delete;
mod register;
mod settings;

use crate::embedded::record::{Mode, SchemaValue};
use crate::embedded::registry::Registry;
use crate::schema::{Kind, Schema, SchemaId};
use std::sync::Arc;

/// Why a request was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub status: u16,
    pub code: u32,
    pub message: String,
}

impl Fault {
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        // The code begins with the status: 40401, 409, 50001.
        let status = if code > 999 { code / 100 } else { code };
        Self { status: u16::try_from(status).unwrap_or(500), code, message: message.into() }
    }

    pub(super) fn no_subject(subject: &str) -> Self {
        Self::new(40401, format!("Subject '{subject}' not found."))
    }

    pub(super) fn no_version(version: impl std::fmt::Display) -> Self {
        Self::new(40402, format!("Version {version} not found."))
    }

    pub(super) fn invalid(schema: &Schema, why: &str) -> Self {
        let cut: String = schema.text.chars().take(500).collect();
        Self::new(42201, format!("Invalid schema {cut} with refs {} of type {}, details: {why}", refs(schema), schema.kind))
    }

    pub(super) fn store(why: impl std::fmt::Display) -> Self {
        Self::new(50001, format!("Error in the backend data store: {why}"))
    }
}

fn refs(schema: &Schema) -> String {
    let list: Vec<String> = schema
        .references
        .iter()
        .map(|reference| format!("{{name='{}', subject='{}', version={}}}", reference.name, reference.subject, reference.version))
        .collect();
    format!("[{}]", list.join(", "))
}

/// A version as asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Latest,
    Number(i32),
}

impl Wanted {
    /// `latest`, -1, or a number from 1.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse::<i32>() {
            _ if text == "latest" => Ok(Self::Latest),
            Ok(-1) => Ok(Self::Latest),
            Ok(number @ 1..) => Ok(Self::Number(number)),
            _ => Err(Fault::new(
                42202,
                format!(
                    "The specified version '{text}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
                ),
            )),
        }
    }

    fn number(self) -> Option<i32> {
        match self {
            Self::Latest => None,
            Self::Number(number) => Some(number),
        }
    }
}

impl Registry {
    pub(super) fn is_ready(&self) -> Result<(), Fault> {
        self.ready().map_err(Fault::store)
    }

    /// Runs what may take a while on a thread of its own; few at a time.
    pub(super) async fn at_work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let _permit = self.work.acquire().await.map_err(Fault::store)?;
        let registry = self.clone();
        tokio::task::spawn_blocking(move || work(&registry)).await.unwrap_or_else(|error| {
            tracing::error!("the schema registry failed at a request: {error}");
            Err(Fault::new(500, "Internal Server Error"))
        })
    }

    /// A schema by its id, or in Protobuf's binary form.
    pub(super) async fn by_id(self: &Arc<Self>, id: SchemaId, serialized: bool) -> Result<Schema, Fault> {
        self.is_ready()?;
        let mut schema = self.state.read().schema(id).ok_or_else(|| Fault::new(40403, format!("Schema {id} not found")))?;
        if serialized && schema.kind == Kind::Protobuf {
            schema.text = self.serialized(id).await?;
        }
        Ok(schema)
    }

    pub(super) async fn serialized(self: &Arc<Self>, id: SchemaId) -> Result<String, Fault> {
        self.at_work(move |this| {
            let parsed = this.parsed(id).map_err(Fault::store)?;
            parsed.serialized().ok_or_else(|| Fault::new(42201, "no Protobuf schema"))
        })
        .await
    }

    pub(super) async fn version(
        self: &Arc<Self>,
        subject: &str,
        wanted: Wanted,
        deleted: bool,
        serialized: bool,
    ) -> Result<SchemaValue, Fault> {
        let mut value = self.one(subject, wanted, deleted)?;
        if serialized && value.kind.as_deref() == Some(Kind::Protobuf.as_str()) {
            value.schema = self.serialized(value.id).await?;
        }
        Ok(value)
    }

    pub(super) fn one(&self, subject: &str, wanted: Wanted, deleted: bool) -> Result<SchemaValue, Fault> {
        self.is_ready()?;
        let state = self.state.read();
        let found = match wanted {
            Wanted::Latest if deleted => state.versions(subject, true).pop(),
            wanted => state.version(subject, wanted.number()).filter(|value| deleted || !value.deleted),
        };
        match found {
            Some(value) => Ok(value.clone()),
            None if state.versions(subject, deleted).is_empty() => Err(Fault::no_subject(subject)),
            None => Err(Fault::no_version(wanted.number().unwrap_or(-1))),
        }
    }
}

pub(super) fn writable(mode: Mode, subject: &str) -> Result<(), Fault> {
    match mode {
        Mode::ReadOnly | Mode::ReadOnlyOverride => Err(Fault::new(42205, format!("Subject {subject} is in read-only mode"))),
        Mode::ReadWrite | Mode::Import => Ok(()),
    }
}
