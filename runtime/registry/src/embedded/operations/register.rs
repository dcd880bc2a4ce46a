//! A schema comes: is it one, is it known, may it follow those before it?

use crate::difference::Reader;
use crate::embedded::level::Level;
use crate::embedded::operations::{Fault, Wanted};
use crate::embedded::record::{Mode, Record, SchemaValue};
use crate::embedded::registry::Registry;
use crate::embedded::state::schema_of;
use crate::parsed::Parsed;
use crate::schema::{Kind, Schema, SchemaId};
use std::sync::Arc;

/// The longest text of a schema; a record of Kafka holds no more by default.
const TEXT: usize = 900_000;

/// References a schema may name itself.
const REFERENCES: usize = 100;

/// Versions of one subject; a registry with more is used for something else.
const VERSIONS: usize = 10_000;

/// A schema somebody sent, parsed.
pub(crate) struct Prepared {
    /// As it would be kept: in one form, with the versions of its references.
    pub(in crate::embedded) schema: Schema,
    pub(in crate::embedded) parsed: Arc<Parsed>,
    pub(in crate::embedded) identity: Vec<u8>,
}

/// What is asked about compatibility.
pub(in crate::embedded) struct Judgement {
    pub compatible: bool,
    pub messages: Vec<String>,
}

impl Registry {
    /// Parses a schema that somebody sent.
    pub(in crate::embedded) fn prepare(&self, subject: &str, mut schema: Schema, normalize: bool) -> Result<Prepared, Fault> {
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

    pub(in crate::embedded) fn identity_of(&self, id: SchemaId) -> Option<Arc<[u8]>> {
        if let Some(known) = self.identities.lock().of.get(&id) {
            return Some(known.clone());
        }
        let identity: Arc<[u8]> = self.parsed(id).ok()?.identity(false).into();
        let mut identities = self.identities.lock();
        identities.of.insert(id, identity.clone());
        identities.by.entry(identity.clone()).or_default().push(id);
        Some(identity)
    }

    pub(in crate::embedded) fn is_same(&self, value: &SchemaValue, prepared: &Prepared) -> bool {
        let schema = schema_of(value);
        schema.kind == prepared.schema.kind
            && schema.references == prepared.schema.references
            && (schema.text == prepared.schema.text || self.identity_of(value.id).is_some_and(|identity| *identity == *prepared.identity))
    }

    /// The version of a subject that holds this schema; the newest where there are several.
    pub(in crate::embedded) fn find(&self, subject: &str, prepared: &Prepared, deleted: bool) -> Option<SchemaValue> {
        let versions: Vec<SchemaValue> = self.state.read().versions(subject, deleted).into_iter().rev().cloned().collect();
        versions.into_iter().find(|value| self.is_same(value, prepared))
    }

    /// The id under which any subject holds this schema.
    pub(in crate::embedded) fn id_of(&self, prepared: &Prepared) -> Option<SchemaId> {
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

    pub(in crate::embedded) fn judge(&self, level: Level, prepared: &Prepared, versions: &[SchemaValue]) -> Result<Judgement, Fault> {
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
                    Err(why) => messages.push(why.into()),
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
    pub(in crate::embedded) fn judges(&self, subject: &str, level: Level) -> Vec<SchemaValue> {
        let state = self.state.read();
        let live = state.versions(subject, false);
        live.into_iter().rev().take(if level.is_transitive() { VERSIONS } else { 1 }).cloned().collect()
    }

    pub(in crate::embedded) async fn register(
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
    pub(in crate::embedded) fn decide(
        &self,
        subject: &str,
        prepared: &Prepared,
        import: (Option<i32>, Option<i32>),
    ) -> Result<(SchemaId, Option<i32>), Fault> {
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

    pub(in crate::embedded) fn decide_import(
        &self,
        subject: &str,
        prepared: &Prepared,
        id: i32,
        version: Option<i32>,
    ) -> Result<(SchemaId, Option<i32>), Fault> {
        let state = self.state.read();
        if let Some(other) = state.schema(SchemaId(id))
            && (other.kind, &other.text, &other.references) != (prepared.schema.kind, &prepared.schema.text, &prepared.schema.references)
        {
            return Err(Fault::new(42205, format!("Overwrite new schema with id {id} is not permitted.")));
        }
        let next = state.subjects.get(subject).and_then(|versions| versions.keys().next_back()).map_or(1, |last| last.saturating_add(1));
        Ok((SchemaId(id), Some(version.filter(|version| *version > 0).unwrap_or(next))))
    }

    pub(in crate::embedded) async fn lookup(
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
    pub(in crate::embedded) async fn check(
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
}
