//! What the records of `_schemas` add up to.

use super::level::Level;
use super::record::{ConfigValue, Mode, Record, SchemaValue};
use crate::schema::{Kind, Reference, Schema, SchemaId};
use millrace_config::Reason;
use std::collections::{BTreeMap, HashSet};

/// Schemas one may refer to, over all steps.
const REFERENCES: usize = 200;

/// Versions of a subject, by number; softly deleted ones are still there.
pub(super) type Versions = BTreeMap<i32, SchemaValue>;

pub(super) struct State {
    pub subjects: BTreeMap<String, Versions>,
    /// Which versions carry an id.
    ids: BTreeMap<SchemaId, Vec<(String, i32)>>,
    /// The highest id ever seen.
    pub last_id: i32,
    configs: BTreeMap<String, ConfigValue>,
    global: ConfigValue,
    modes: BTreeMap<String, Mode>,
    mode: Option<Mode>,
    default: Level,
}

impl State {
    pub fn new(default: Level) -> Self {
        Self {
            subjects: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_id: 0,
            configs: BTreeMap::new(),
            global: ConfigValue::default(),
            modes: BTreeMap::new(),
            mode: None,
            default,
        }
    }

    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Schema { subject, version, value: Some(value) } => {
                self.last_id = self.last_id.max(value.id.0);
                self.forget(&subject, version);
                self.ids.entry(value.id).or_default().push((subject.clone(), version));
                self.subjects.entry(subject).or_default().insert(version, value);
            }
            Record::Schema { subject, version, value: None } => {
                self.forget(&subject, version);
                if let Some(versions) = self.subjects.get_mut(&subject) {
                    versions.remove(&version);
                    if versions.is_empty() {
                        self.subjects.remove(&subject);
                    }
                }
            }
            Record::DeleteSubject { subject, version: Some(last) } => {
                for (_, value) in self.subjects.get_mut(&subject).into_iter().flat_map(|versions| versions.range_mut(..=last)) {
                    value.deleted = true;
                }
            }
            Record::Config { subject: Some(subject), value } => set(&mut self.configs, subject, value),
            Record::Config { subject: None, value } => self.global = value.unwrap_or_default(),
            Record::Mode { subject: Some(subject), mode } => set(&mut self.modes, subject, mode),
            Record::Mode { subject: None, mode } => self.mode = mode,
            Record::LastId(id) => self.last_id = self.last_id.max(id),
            Record::DeleteSubject { version: None, .. } | Record::Other => {}
        }
    }

    /// Takes a version from its id's list.
    fn forget(&mut self, subject: &str, version: i32) {
        let Some(id) = self.subjects.get(subject).and_then(|versions| versions.get(&version)).map(|value| value.id) else { return };
        if let Some(list) = self.ids.get_mut(&id) {
            list.retain(|(other, number)| other != subject || *number != version);
            if list.is_empty() {
                self.ids.remove(&id);
            }
        }
    }

    /// Subjects and versions of an id, deleted ones too.
    pub fn versions_of(&self, id: SchemaId) -> Vec<&SchemaValue> {
        let mut found: Vec<&SchemaValue> =
            self.ids.get(&id).into_iter().flatten().filter_map(|(subject, version)| self.subjects.get(subject)?.get(version)).collect();
        found.sort_by(|a, b| (&a.subject, a.version).cmp(&(&b.subject, b.version)));
        found
    }

    pub fn ids(&self) -> impl Iterator<Item = SchemaId> {
        self.ids.keys().copied()
    }

    pub fn schema(&self, id: SchemaId) -> Option<Schema> {
        let (subject, version) = self.ids.get(&id)?.first()?;
        Some(schema_of(self.subjects.get(subject)?.get(version)?))
    }

    /// Live versions of a subject, or all.
    pub fn versions(&self, subject: &str, deleted: bool) -> Vec<&SchemaValue> {
        self.subjects.get(subject).into_iter().flat_map(Versions::values).filter(|value| deleted || !value.deleted).collect()
    }

    /// One version of a subject, deleted or not; `None`: the latest of the live ones.
    pub fn version(&self, subject: &str, version: Option<i32>) -> Option<&SchemaValue> {
        let versions = self.subjects.get(subject)?;
        match version {
            Some(version) => versions.get(&version),
            None => versions.values().rev().find(|value| !value.deleted),
        }
    }

    /// What references stand for, over all steps; what others need first.
    ///
    /// Errors: one that is not there, or too many.
    pub fn references(&self, references: &[Reference]) -> Result<Vec<(String, Schema)>, Reason> {
        enum Step<'a> {
            Open(&'a Reference),
            Close(&'a Reference, &'a SchemaValue),
        }
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut steps: Vec<Step<'_>> = references.iter().rev().map(Step::Open).collect();
        while let Some(step) = steps.pop() {
            match step {
                Step::Close(reference, value) => found.push((reference.name.clone(), schema_of(value))),
                Step::Open(reference) => {
                    if !seen.insert(&reference.name) {
                        continue;
                    }
                    if seen.len() > REFERENCES {
                        return Err(format!("more than {REFERENCES} references").into());
                    }
                    let Reference { name, subject, version } = reference;
                    let value = self.version(subject, Some(*version).filter(|version| *version > 0)).ok_or_else(|| {
                        format!("No schema reference found for subject \"{subject}\" and version {version} (name \"{name}\")")
                    })?;
                    steps.push(Step::Close(reference, value));
                    steps.extend(value.references.iter().rev().map(Step::Open));
                }
            }
        }
        Ok(found)
    }

    /// Ids of the live schemas that refer to a version.
    pub fn referring(&self, subject: &str, version: i32) -> Vec<SchemaId> {
        let refers = |value: &&SchemaValue| {
            !value.deleted && value.references.iter().any(|reference| reference.subject == subject && reference.version == version)
        };
        let mut ids: Vec<SchemaId> = self.subjects.values().flat_map(Versions::values).filter(refers).map(|value| value.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// A subject's own configuration; `None` as subject: the global one, with its default.
    pub fn config(&self, subject: Option<&str>) -> Option<ConfigValue> {
        match subject {
            Some(subject) => self.configs.get(subject).cloned(),
            None => {
                let mut global = self.global.clone();
                global.level.get_or_insert_with(|| self.default.to_string());
                Some(global)
            }
        }
    }

    /// What is demanded of a subject's new versions.
    pub fn level(&self, subject: &str) -> Level {
        let own = self.configs.get(subject).and_then(|config| config.level.as_deref());
        own.or(self.global.level.as_deref()).and_then(Level::named).unwrap_or(self.default)
    }

    pub fn normalizes(&self, subject: &str) -> bool {
        self.configs.get(subject).and_then(|config| config.normalize).or(self.global.normalize).unwrap_or(false)
    }

    /// A subject's own mode; `None` as subject: the global one.
    pub fn mode(&self, subject: Option<&str>) -> Option<Mode> {
        match subject {
            Some(subject) => self.modes.get(subject).copied(),
            None => Some(self.mode.unwrap_or(Mode::ReadWrite)),
        }
    }

    /// The mode that holds for a subject.
    pub fn mode_for(&self, subject: &str) -> Mode {
        match self.mode {
            Some(Mode::ReadOnlyOverride) => Mode::ReadOnlyOverride,
            global => self.modes.get(subject).copied().or(global).unwrap_or(Mode::ReadWrite),
        }
    }
}

/// The schema a version holds. A kind nobody knows can't be here: what has one was never registered by us, and reads as Avro that fails.
pub(super) fn schema_of(value: &SchemaValue) -> Schema {
    let kind = value.kind.as_deref().and_then(|kind| kind.parse().ok()).unwrap_or(Kind::Avro);
    Schema { kind, text: value.schema.clone(), references: value.references.clone() }
}

fn set<T>(map: &mut BTreeMap<String, T>, key: String, value: Option<T>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_schema_that_is_gone_for_good_is_remembered_over_compaction() {
        // What compaction leaves of a topic where the schema with the id 7 was registered and deleted for good.
        let mut state = State::new(Level::Backward);
        for (key, value) in [
            (
                r#"{"keytype":"SCHEMA","subject":"o","version":1,"magic":1}"#,
                Some(r#"{"subject":"o","version":1,"id":1,"schema":"\"int\""}"#),
            ),
            (r#"{"keytype":"NOOP","magic":0}"#, Some(r#"{"millrace_last_id":7}"#)),
            (r#"{"keytype":"SCHEMA","subject":"gone","version":1,"magic":1}"#, None),
        ] {
            state.apply(Record::decode(key.as_bytes(), value.map(str::as_bytes)).unwrap());
        }
        assert_eq!(state.last_id, 7);
    }
}
