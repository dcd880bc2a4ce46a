//! What each request does: judged against the state, written, answered. Words and codes are Confluent's.

use super::Registry;
use super::level::Level;
use super::record::{ConfigValue, Mode, Record, SchemaValue};
use super::state::schema_of;
use crate::difference::Reader;
use crate::parsed::Parsed;
use crate::schema::{Kind, Schema, SchemaId};
use std::collections::HashMap;
use std::sync::Arc;

/// The longest text of a schema; a record of Kafka holds no more by default.
const TEXT: usize = 900_000;
/// References a schema may name itself.
const REFERENCES: usize = 100;
/// Versions of one subject; a registry with more is used for something else.
const VERSIONS: usize = 10_000;

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

    fn no_subject(subject: &str) -> Self {
        Self::new(40401, format!("Subject '{subject}' not found."))
    }

    fn no_version(version: impl std::fmt::Display) -> Self {
        Self::new(40402, format!("Version {version} not found."))
    }

    fn invalid(schema: &Schema, why: &str) -> Self {
        let cut: String = schema.text.chars().take(500).collect();
        Self::new(42201, format!("Invalid schema {cut} with refs {} of type {}, details: {why}", refs(schema), schema.kind))
    }

    fn store(why: impl std::fmt::Display) -> Self {
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

/// A schema somebody sent, parsed.
struct Prepared {
    /// As it would be kept: in one form, with the versions of its references.
    schema: Schema,
    parsed: Arc<Parsed>,
    identity: Vec<u8>,
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

/// What is asked about compatibility.
pub(super) struct Judgement {
    pub compatible: bool,
    pub messages: Vec<String>,
}

/// Contents of known ids, to find the id of a content.
#[derive(Default)]
pub(super) struct Identities {
    of: HashMap<SchemaId, Arc<[u8]>>,
    by: HashMap<Arc<[u8]>, Vec<SchemaId>>,
}

impl Registry {
    fn is_ready(&self) -> Result<(), Fault> {
        self.ready().map_err(Fault::store)
    }

    /// Runs what may take a while on a thread of its own; few at a time.
    async fn at_work<T: Send + 'static>(
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

    /// Parses a schema that somebody sent.
    fn prepare(&self, subject: &str, mut schema: Schema, normalize: bool) -> Result<Prepared, Fault> {
        if schema.text.trim().is_empty() {
            return Err(Fault::new(42201, "Empty schema"));
        }
        if schema.text.len() > TEXT {
            return Err(Fault::new(42209, format!("The schema is larger than {TEXT} bytes")));
        }
        if schema.references.len() > REFERENCES {
            return Err(Fault::invalid(&schema, &format!("more than {REFERENCES} references")));
        }
        let (references, normalize) = {
            let state = self.state.read();
            for reference in schema.references.iter_mut().filter(|reference| reference.version == -1) {
                // "The latest" is a number from now on.
                reference.version = state.version(&reference.subject, None).map_or(-1, |value| value.version);
            }
            let references = state.references(&schema.references).map_err(|why| Fault::invalid(&schema, &why))?;
            (references, normalize || state.normalizes(subject))
        };
        let parsed = Parsed::parse(&schema, &references).map_err(|why| Fault::invalid(&schema, &why))?;
        let identity = parsed.identity(normalize);
        schema.text = parsed.canonical(normalize);
        Ok(Prepared { schema, parsed: Arc::new(parsed), identity })
    }

    fn identity_of(&self, id: SchemaId) -> Option<Arc<[u8]>> {
        if let Some(known) = self.identities.lock().of.get(&id) {
            return Some(known.clone());
        }
        let identity: Arc<[u8]> = self.parsed(id).ok()?.identity(false).into();
        let mut identities = self.identities.lock();
        identities.of.insert(id, identity.clone());
        identities.by.entry(identity.clone()).or_default().push(id);
        Some(identity)
    }

    fn forget_id(&self, id: SchemaId) {
        self.parsed.lock().remove(&id);
        let mut identities = self.identities.lock();
        if let Some(identity) = identities.of.remove(&id) {
            identities.by.remove(&identity);
        }
    }

    fn is_same(&self, value: &SchemaValue, prepared: &Prepared) -> bool {
        let schema = schema_of(value);
        schema.kind == prepared.schema.kind
            && schema.references == prepared.schema.references
            && (schema.text == prepared.schema.text || self.identity_of(value.id).is_some_and(|identity| *identity == *prepared.identity))
    }

    /// The version of a subject that holds this schema; the newest where there are several.
    fn find(&self, subject: &str, prepared: &Prepared, deleted: bool) -> Option<SchemaValue> {
        let versions: Vec<SchemaValue> = self.state.read().versions(subject, deleted).into_iter().rev().cloned().collect();
        versions.into_iter().find(|value| self.is_same(value, prepared))
    }

    /// The id under which any subject holds this schema.
    fn id_of(&self, prepared: &Prepared) -> Option<SchemaId> {
        let ids: Vec<SchemaId> = {
            let state = self.state.read();
            state.ids().filter(|id| state.schema(*id).is_some_and(|schema| schema.kind == prepared.schema.kind)).collect()
        };
        for id in ids {
            self.identity_of(id);
        }
        let candidates = self.identities.lock().by.get(prepared.identity.as_slice()).cloned().unwrap_or_default();
        let state = self.state.read();
        candidates.into_iter().find(|id| {
            state.schema(*id).is_some_and(|schema| schema.kind == prepared.schema.kind && schema.references == prepared.schema.references)
        })
    }

    fn judge(&self, level: Level, prepared: &Prepared, versions: &[SchemaValue]) -> Result<Judgement, Fault> {
        for old in versions {
            let other = self.parsed(old.id).map_err(|why| Fault::invalid(&schema_of(old), &why))?;
            let mut messages = Vec::new();
            for &reader in level.readers() {
                let (reading, writing) = match reader {
                    Reader::New => (&*prepared.parsed, &*other),
                    Reader::Old => (&*other, &*prepared.parsed),
                };
                match reading.cannot_read(writing) {
                    Ok(differences) => messages.extend(differences.iter().map(|one| one.render(reader))),
                    Err(why) => messages.push(why),
                }
            }
            if !messages.is_empty() {
                messages.push(format!("{{oldSchemaVersion: {}}}", old.version));
                messages.push(format!("{{oldSchema: '{}'}}", old.schema.chars().take(2_000).collect::<String>()));
                messages.push(format!("{{validateFields: 'false', compatibility: '{level}'}}"));
                return Ok(Judgement { compatible: false, messages });
            }
        }
        Ok(Judgement { compatible: true, messages: Vec::new() })
    }

    /// The versions a new one of a subject is compared with, the newest first.
    fn judges(&self, subject: &str, level: Level) -> Vec<SchemaValue> {
        let state = self.state.read();
        let live = state.versions(subject, false);
        live.into_iter().rev().take(if level.is_transitive() { VERSIONS } else { 1 }).cloned().collect()
    }

    pub(super) async fn register(
        self: &Arc<Self>,
        subject: String,
        schema: Schema,
        normalize: bool,
        import: (Option<i32>, Option<i32>),
    ) -> Result<SchemaId, Fault> {
        self.is_ready()?;
        let name = subject.clone();
        let prepared = Arc::new(self.at_work(move |this| this.prepare(&name, schema, normalize)).await?);
        let _turn = self.turn.lock().await;
        let decide = {
            let (subject, prepared) = (subject.clone(), prepared.clone());
            move |this: &Self| this.decide(&subject, &prepared, import)
        };
        let (id, version) = match self.at_work(decide).await? {
            (id, None) => return Ok(id),
            (id, Some(version)) => (id, version),
        };
        let Schema { kind, text, references } = prepared.schema.clone();
        let value = SchemaValue {
            subject: subject.clone(),
            version,
            id,
            kind: (kind != Kind::Avro).then(|| kind.as_str().to_owned()),
            references,
            schema: text,
            deleted: false,
            others: serde_json::Map::new(),
        };
        self.write(Record::Schema { subject, version, value: Some(value) }).await.map_err(Fault::store)?;
        Ok(id)
    }

    /// Id and version under which a schema is to be written; without a version it is there already.
    fn decide(&self, subject: &str, prepared: &Prepared, import: (Option<i32>, Option<i32>)) -> Result<(SchemaId, Option<i32>), Fault> {
        let mode = self.state.read().mode_for(subject);
        let refused = |why: &str| Err(Fault::new(42205, format!("Subject {subject} {why}")));
        if let Some(found) = self.find(subject, prepared, false)
            && import.0.is_none_or(|id| id == found.id.0)
        {
            return Ok((found.id, None));
        }
        match (mode, import) {
            (Mode::ReadOnly | Mode::ReadOnlyOverride, _) => return refused("is in read-only mode"),
            (Mode::ReadWrite, (Some(id), _)) if id >= 0 => return refused("is not in import mode"),
            (Mode::Import, (Some(id), version)) if id >= 0 => return self.decide_import(subject, prepared, id, version),
            (Mode::Import, _) => return refused("is in import mode; give the schema's id"),
            _ => {}
        }
        let level = self.state.read().level(subject);
        let Judgement { compatible, messages } = self.judge(level, prepared, &self.judges(subject, level))?;
        if !compatible {
            let details = messages.join(", ");
            let words =
                format!("Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: [{details}]");
            return Err(Fault::new(409, words));
        }
        let known = self.id_of(prepared);
        let state = self.state.read();
        let all = state.subjects.get(subject);
        if all.is_some_and(|versions| versions.len() >= VERSIONS) {
            return refused(&format!("has {VERSIONS} versions; delete some permanently"));
        }
        let version = all.and_then(|versions| versions.keys().next_back()).map_or(1, |last| last.saturating_add(1));
        let id = match known {
            Some(id) => id,
            None => SchemaId(state.last_id.checked_add(1).ok_or_else(|| Fault::store("every id was given out"))?),
        };
        Ok((id, Some(version)))
    }

    fn decide_import(&self, subject: &str, prepared: &Prepared, id: i32, version: Option<i32>) -> Result<(SchemaId, Option<i32>), Fault> {
        let state = self.state.read();
        if let Some(other) = state.schema(SchemaId(id))
            && (other.kind, &other.text, &other.references) != (prepared.schema.kind, &prepared.schema.text, &prepared.schema.references)
        {
            return Err(Fault::new(42205, format!("Overwrite new schema with id {id} is not permitted.")));
        }
        let next = state.subjects.get(subject).and_then(|versions| versions.keys().next_back()).map_or(1, |last| last.saturating_add(1));
        Ok((SchemaId(id), Some(version.filter(|version| *version > 0).unwrap_or(next))))
    }

    pub(super) async fn lookup(
        self: &Arc<Self>,
        subject: String,
        schema: Schema,
        normalize: bool,
        deleted: bool,
    ) -> Result<SchemaValue, Fault> {
        self.is_ready()?;
        if self.state.read().versions(&subject, deleted).is_empty() {
            return Err(Fault::no_subject(&subject));
        }
        self.at_work(move |this| {
            let prepared = this.prepare(&subject, schema, normalize)?;
            this.find(&subject, &prepared, deleted).ok_or_else(|| Fault::new(40403, "Schema not found"))
        })
        .await
    }

    /// `version`: compare with this one only; `None`: as for a registration.
    pub(super) async fn check(
        self: &Arc<Self>,
        subject: String,
        schema: Schema,
        version: Option<Wanted>,
        normalize: bool,
    ) -> Result<Judgement, Fault> {
        self.is_ready()?;
        self.at_work(move |this| {
            let prepared = this.prepare(&subject, schema, normalize)?;
            let level = this.state.read().level(&subject);
            let versions = match version {
                None => this.judges(&subject, level),
                Some(wanted) => {
                    let found = this.state.read().version(&subject, wanted.number()).filter(|value| !value.deleted).cloned();
                    match (found, wanted) {
                        (Some(found), _) => vec![found],
                        // Whatever is the first version of a subject is compatible.
                        (None, Wanted::Latest) => Vec::new(),
                        (None, Wanted::Number(number)) => return Err(Fault::no_version(number)),
                    }
                }
            };
            this.judge(level, &prepared, &versions)
        })
        .await
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

    async fn serialized(self: &Arc<Self>, id: SchemaId) -> Result<String, Fault> {
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

    fn one(&self, subject: &str, wanted: Wanted, deleted: bool) -> Result<SchemaValue, Fault> {
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

    pub(super) async fn delete_version(&self, subject: &str, wanted: Wanted, permanent: bool) -> Result<i32, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let value = {
            let state = self.state.read();
            writable(state.mode_for(subject), subject)?;
            if state.versions(subject, true).is_empty() {
                return Err(Fault::no_subject(subject));
            }
            let found = match wanted {
                Wanted::Latest if permanent => state.versions(subject, true).pop(),
                wanted => state.version(subject, wanted.number()),
            };
            found.cloned().ok_or_else(|| match wanted {
                Wanted::Latest => Fault::no_subject(subject),
                Wanted::Number(number) => Fault::no_version(number),
            })?
        };
        let version = value.version;
        match (value.deleted, permanent) {
            (true, false) => {
                let words = format!("Subject '{subject}' Version {version} was soft deleted.Set permanent=true to delete permanently");
                return Err(Fault::new(40406, words));
            }
            (false, true) => {
                let words = format!("Subject '{subject}' Version {version} was not deleted first before being permanently deleted");
                return Err(Fault::new(40407, words));
            }
            _ => {}
        }
        self.unreferenced(subject, version)?;
        if permanent {
            self.remember_last_id().await?;
        }
        let id = value.id;
        let value = (!permanent).then(|| SchemaValue { deleted: true, ..value });
        self.write(Record::Schema { subject: subject.to_owned(), version, value }).await.map_err(Fault::store)?;
        if permanent && self.state.read().schema(id).is_none() {
            self.forget_id(id);
        }
        Ok(version)
    }

    /// Before something goes for good: its id may be the highest, and must not be given out again.
    async fn remember_last_id(&self) -> Result<(), Fault> {
        let last = self.state.read().last_id;
        self.write(Record::LastId(last)).await.map_err(Fault::store)
    }

    fn unreferenced(&self, subject: &str, version: i32) -> Result<(), Fault> {
        if self.state.read().referring(subject, version).is_empty() {
            return Ok(());
        }
        let key = format!("{{magic=1,keytype=SCHEMA,subject={subject},version={version}}}");
        Err(Fault::new(42206, format!("One or more references exist to the schema {key}.")))
    }

    pub(super) async fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<i32>, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let versions: Vec<SchemaValue> = {
            let state = self.state.read();
            writable(state.mode_for(subject), subject)?;
            state.versions(subject, true).into_iter().cloned().collect()
        };
        let live: Vec<i32> = versions.iter().filter(|value| !value.deleted).map(|value| value.version).collect();
        let Some(last) = versions.last().map(|value| value.version) else { return Err(Fault::no_subject(subject)) };
        if permanent {
            if !live.is_empty() {
                let words = format!("Subject '{subject}' was not deleted first before being permanently deleted");
                return Err(Fault::new(40405, words));
            }
            for value in &versions {
                self.unreferenced(subject, value.version)?;
            }
            self.remember_last_id().await?;
            for value in &versions {
                let record = Record::Schema { subject: subject.to_owned(), version: value.version, value: None };
                self.write(record).await.map_err(Fault::store)?;
                if self.state.read().schema(value.id).is_none() {
                    self.forget_id(value.id);
                }
            }
            return Ok(versions.iter().map(|value| value.version).collect());
        }
        if live.is_empty() {
            let words = format!("Subject '{subject}' was soft deleted.Set permanent=true to delete permanently");
            return Err(Fault::new(40404, words));
        }
        for version in &live {
            self.unreferenced(subject, *version)?;
        }
        let name = || subject.to_owned();
        self.write(Record::DeleteSubject { subject: name(), version: Some(last) }).await.map_err(Fault::store)?;
        let (has_config, has_mode) = {
            let state = self.state.read();
            (state.config(Some(subject)).is_some(), state.mode(Some(subject)).is_some())
        };
        if has_config {
            self.write(Record::Config { subject: Some(name()), value: None }).await.map_err(Fault::store)?;
        }
        if has_mode {
            self.write(Record::Mode { subject: Some(name()), mode: None }).await.map_err(Fault::store)?;
        }
        Ok(live)
    }

    pub(super) fn config(&self, subject: Option<&str>, or_global: bool) -> Result<ConfigValue, Fault> {
        self.is_ready()?;
        let state = self.state.read();
        let found = state.config(subject).or_else(|| state.config(None).filter(|_| or_global));
        found.ok_or_else(|| {
            let subject = subject.unwrap_or_default();
            Fault::new(40408, format!("Subject '{subject}' does not have subject-level compatibility configured"))
        })
    }

    pub(super) async fn set_config(&self, subject: Option<&str>, level: Option<&str>, normalize: Option<bool>) -> Result<(), Fault> {
        self.is_ready()?;
        let level = match level {
            None if normalize.is_some() => None,
            level => Some(level.and_then(Level::named).ok_or_else(|| {
                Fault::new(
                    42203,
                    "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive",
                )
            })?),
        };
        let _turn = self.turn.lock().await;
        let mut value = {
            let state = self.state.read();
            writable(
                subject.map_or_else(|| state.mode(None).unwrap_or(Mode::ReadWrite), |subject| state.mode_for(subject)),
                subject.unwrap_or("."),
            )?;
            state.config(subject).unwrap_or_default()
        };
        value.subject = subject.map(str::to_owned);
        value.level = level.map(|level| level.to_string()).or(value.level);
        value.normalize = normalize.or(value.normalize);
        self.write(Record::Config { subject: subject.map(str::to_owned), value: Some(value) }).await.map_err(Fault::store)
    }

    /// Takes a configuration back; what it was.
    pub(super) async fn delete_config(&self, subject: Option<&str>) -> Result<ConfigValue, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let before = self.state.read().config(subject).ok_or_else(|| Fault::no_subject(subject.unwrap_or_default()))?;
        self.write(Record::Config { subject: subject.map(str::to_owned), value: None }).await.map_err(Fault::store)?;
        Ok(before)
    }

    pub(super) fn mode(&self, subject: Option<&str>, or_global: bool) -> Result<Mode, Fault> {
        self.is_ready()?;
        let state = self.state.read();
        let found = state.mode(subject).or_else(|| state.mode(None).filter(|_| or_global));
        found.ok_or_else(|| {
            Fault::new(40409, format!("Subject '{}' does not have subject-level mode configured", subject.unwrap_or_default()))
        })
    }

    pub(super) async fn set_mode(&self, subject: Option<&str>, name: Option<&str>, force: bool) -> Result<Mode, Fault> {
        self.is_ready()?;
        let mode = name.and_then(Mode::named).ok_or_else(|| {
            Fault::new(42204, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT, and FORWARD")
        })?;
        let _turn = self.turn.lock().await;
        if mode == Mode::Import && !force {
            let state = self.state.read();
            let exists = match subject {
                Some(subject) => !state.versions(subject, false).is_empty(),
                None => state.subjects.values().flat_map(|versions| versions.values()).any(|value| !value.deleted),
            };
            if exists {
                return Err(Fault::new(42205, "Cannot import since found existing subjects"));
            }
        }
        self.write(Record::Mode { subject: subject.map(str::to_owned), mode: Some(mode) }).await.map_err(Fault::store)?;
        Ok(mode)
    }

    pub(super) async fn delete_mode(&self, subject: Option<&str>) -> Result<Mode, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let before = self.state.read().mode(subject).ok_or_else(|| Fault::no_subject(subject.unwrap_or_default()))?;
        self.write(Record::Mode { subject: subject.map(str::to_owned), mode: None }).await.map_err(Fault::store)?;
        Ok(before)
    }
}

fn writable(mode: Mode, subject: &str) -> Result<(), Fault> {
    match mode {
        Mode::ReadOnly | Mode::ReadOnlyOverride => Err(Fault::new(42205, format!("Subject {subject} is in read-only mode"))),
        Mode::ReadWrite | Mode::Import => Ok(()),
    }
}
