//! A table at one moment, and what is committed to it.

use crate::Files;
use crate::catalog::{Catalog, Name, Trouble};
use crate::data_file::{Attempt, DataFile};
use crate::schema::Field;
use iceberg::spec::{FormatVersion, MAIN_BRANCH, TableMetadata, Transform};
use millrace_kit::parts::{Move, TargetError};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a commit may be tried.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// In a snapshot's summary: the batch that it holds, by which it is found again.
pub(crate) const BATCH: &str = "millrace.batch";

/// How a table is laid out: by the day of a column, and perhaps by a second one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The column whose day it is.
    pub time: String,
    pub level: Option<String>,
    /// The columns that a file's rows are sorted by.
    pub sorted_by: Vec<String>,
}

/// How a commit went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    pub snapshot: i64,
    /// Commits of others that came first.
    pub conflicts: u32,
}

/// An open table.
pub struct Table {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) metadata: TableMetadata,
    pub(crate) spec_id: i32,
    pub(crate) has_level: bool,
    pub(crate) sort_order: Option<i32>,
}

/// A table that was found, before anybody can reach its files.
pub struct Found {
    catalog: Arc<Catalog>,
    metadata: TableMetadata,
}

impl Found {
    /// Finds a table. `make`: its columns and layout, where it is to be made; `location`: where, if the catalog is not to choose.
    ///
    /// Errors: it is not there, and not to be made; the catalog can't be reached, or refuses.
    pub async fn open(catalog: Arc<Catalog>, make: Option<(&[Field], &Layout)>, location: Option<&str>) -> Result<Self, TargetError> {
        if let Some(metadata) = catalog.load().await? {
            return Ok(Self { catalog, metadata });
        }
        let name = catalog.name.clone();
        let missing = || TargetError::Refused(format!("the catalog has no table {name}; a sink of type lake makes it when it starts"));
        let (fields, layout) = make.ok_or_else(missing)?;
        catalog.create(&new_table(&name, fields, layout, location)?).await?;
        let metadata = catalog.load().await?.ok_or_else(missing)?;
        tracing::info!(table = %catalog.name, location = metadata.location(), "made a table");
        Ok(Self { catalog, metadata })
    }

    /// Where its files lie.
    pub fn location(&self) -> &str {
        self.metadata.location()
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The columns that it is partitioned by.
    pub fn partitioned_by(&self) -> Vec<&str> {
        let schema = self.metadata.current_schema();
        let fields = self.metadata.default_partition_spec().fields().iter();
        fields.map(|field| schema.name_by_field_id(field.source_id).unwrap_or_default()).collect()
    }

    /// Holds the table against its layout.
    ///
    /// Errors: `Refused`: it is partitioned otherwise, or of a version that is not written here.
    pub fn table(self, layout: &Layout, files: Arc<dyn Files>) -> Result<Table, TargetError> {
        let refuse =
            |why: String| TargetError::Refused(format!("the table {} can't be used: {why}; name another table", self.catalog.name));
        if self.metadata.format_version() == FormatVersion::V1 {
            return Err(refuse("it is of format version 1; upgrade it to 2".into()));
        }
        let schema = self.metadata.current_schema();
        let spec = self.metadata.default_partition_spec();
        let there: Vec<(&str, &Transform)> =
            spec.fields().iter().map(|field| (schema.name_by_field_id(field.source_id).unwrap_or_default(), &field.transform)).collect();
        let mut wanted = vec![(layout.time.as_str(), &Transform::Day)];
        wanted.extend(layout.level.as_deref().map(|level| (level, &Transform::Identity)));
        if there != wanted {
            let words = |of: &[(&str, &Transform)]| of.iter().map(|(name, by)| format!("{by}({name})")).collect::<Vec<_>>().join(", ");
            return Err(refuse(format!("it is partitioned by [{}], and the file says [{}]", words(&there), words(&wanted))));
        }
        let order = self.metadata.default_sort_order();
        let sorted_by: Vec<_> = order.fields.iter().filter_map(|field| schema.name_by_field_id(field.source_id)).collect();
        let sort_order = (!sorted_by.is_empty() && sorted_by == layout.sorted_by).then(|| i32::try_from(order.order_id).ok()).flatten();
        let (spec_id, has_level) = (spec.spec_id(), layout.level.is_some());
        Ok(Table { catalog: self.catalog, files, metadata: self.metadata, spec_id, has_level, sort_order })
    }
}

/// What is asked of a catalog to make a table.
fn new_table(name: &Name, fields: &[Field], layout: &Layout, location: Option<&str>) -> Result<Value, TargetError> {
    let mut last = 0;
    let mut next = || {
        last += 1;
        last
    };
    let columns: Vec<Value> = fields.iter().map(|field| field.write(&mut next)).collect();
    let id = |wanted: &str| {
        let column = columns.iter().find(|column| column["name"] == wanted).map(|column| column["id"].clone());
        column.ok_or_else(|| TargetError::Refused(format!("table {name} would have no column {wanted}")))
    };
    let mut parts =
        vec![json!({"source-id": id(&layout.time)?, "field-id": 1000, "name": format!("{}_day", layout.time), "transform": "day"})];
    if let Some(level) = &layout.level {
        parts.push(json!({"source-id": id(level)?, "field-id": 1001, "name": level, "transform": "identity"}));
    }
    let sorted = layout
        .sorted_by
        .iter()
        .map(|column| Ok(json!({"source-id": id(column)?, "transform": "identity", "direction": "asc", "null-order": "nulls-first"})));
    let sorted = sorted.collect::<Result<Vec<Value>, TargetError>>()?;
    let mut table = json!({
        "name": name.table,
        "schema": {"type": "struct", "schema-id": 0, "fields": columns},
        "partition-spec": {"spec-id": 0, "fields": parts},
        "write-order": {"order-id": i32::from(!sorted.is_empty()), "fields": sorted},
        "stage-create": false,
        "properties": {
            "format-version": "2",
            // Without it, a file of metadata stays for each commit.
            "write.metadata.delete-after-commit.enabled": "true",
            "write.metadata.previous-versions-max": "100",
            "write.parquet.compression-codec": "zstd",
        },
    });
    if let Some(location) = location {
        table["location"] = json!(location);
    }
    Ok(table)
}

impl Table {
    pub fn name(&self) -> &Name {
        &self.catalog.name
    }

    /// The columns, with their ids.
    pub fn fields(&self) -> Vec<Field> {
        let schema = serde_json::to_value(self.metadata.current_schema().as_ref()).unwrap_or_default();
        schema["fields"].as_array().into_iter().flatten().filter_map(Field::read).collect()
    }

    /// The folder of data files.
    pub fn data_folder(&self) -> String {
        let location = self.metadata.location().trim_end_matches('/');
        let path = self.metadata.properties().get("write.data.path");
        path.map_or_else(|| format!("{location}/data"), |path| path.trim_end_matches('/').to_owned())
    }

    /// The newest snapshot, and when it was made, in milliseconds since 1970.
    pub fn snapshot(&self) -> (i64, i64) {
        self.metadata.current_snapshot().map_or((0, self.metadata.last_updated_ms()), |one| (one.sequence_number(), one.timestamp_ms()))
    }

    /// Brings the metadata up to the newest.
    pub async fn refresh(&mut self) -> Result<(), TargetError> {
        let newest = self.catalog.load().await?;
        let newest = newest.ok_or_else(|| TargetError::Refused(format!("table {} is gone from the catalog", self.catalog.name)))?;
        if newest.uuid() != self.metadata.uuid() {
            return Err(TargetError::Fenced(format!(
                "table {} was replaced by another of its name; it is opened again",
                self.catalog.name
            )));
        }
        self.metadata = newest;
        Ok(())
    }

    /// Where a position is, in the metadata at hand.
    pub fn position(&self, id: &str) -> Option<i64> {
        self.metadata.properties().get(id)?.parse().ok()
    }

    /// Commits files and positions as one snapshot.
    ///
    /// Errors: `Fenced`: a position is not where it was; the files go, where none of them can be in the table. `Away`: not known to be committed within
    /// [`PATIENCE`]; the files stay.
    pub async fn commit(&mut self, data: &[DataFile], moves: &[Move]) -> Result<Committed, TargetError> {
        let positions: HashMap<String, String> = moves.iter().map(|one| (one.id.clone(), one.to.to_string())).collect();
        let mut tried = Tried::new();
        let mut summary = positions.clone();
        summary.insert(BATCH.to_owned(), tried.batch.clone());
        let deadline = Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(50);
        loop {
            let trouble = match self.try_once(data, moves, &positions, &summary, &mut tried).await {
                Ok(Some(snapshot)) => {
                    self.clear(&tried, Some(snapshot)).await;
                    return Ok(Committed { snapshot, conflicts: tried.conflicts });
                }
                Ok(None) => format!("other commits to {} always came first", self.catalog.name),
                Err(TargetError::Away(text)) => text,
                Err(error) => {
                    if matches!(error, TargetError::Fenced(_)) && !tried.is_unknown {
                        self.clear(&tried, None).await;
                        for file in data {
                            let _ = self.files.delete(&file.location).await;
                        }
                    }
                    return Err(error);
                }
            };
            if Instant::now() >= deadline {
                return Err(TargetError::Away(format!("{trouble} (tried for {} s)", PATIENCE.as_secs())));
            }
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// The snapshot that holds the batch; `None`: somebody else was first.
    async fn try_once(
        &mut self,
        data: &[DataFile],
        moves: &[Move],
        positions: &HashMap<String, String>,
        summary: &HashMap<String, String>,
        tried: &mut Tried,
    ) -> Result<Option<i64>, TargetError> {
        self.refresh().await?;
        if let Some(ours) = self.ours(tried) {
            return Ok(Some(ours));
        }
        if let Some((one, there)) = moves.iter().map(|one| (one, self.position(&one.id))).find(|(one, there)| *there != one.from) {
            let shown = |at: Option<i64>| at.map_or_else(|| "none".into(), |at| at.to_string());
            return Err(TargetError::Fenced(format!(
                "another writer moved the position of {} from {} to {}; what was read since is read again",
                one.id,
                shown(one.from),
                shown(there)
            )));
        }
        let attempt = self.attempt(data, summary).await?;
        self.publish(attempt, Some(positions), tried).await
    }

    /// The snapshot of an attempt whose answer was lost.
    pub(crate) fn ours(&self, tried: &Tried) -> Option<i64> {
        let ours = self.metadata.snapshots().find(|one| one.summary().additional_properties.get(BATCH) == Some(&tried.batch));
        ours.map(|ours| ours.snapshot_id())
    }

    /// Asks the catalog for a snapshot behind the one that it was made from. `None`: somebody else was first.
    pub(crate) async fn publish(
        &mut self,
        attempt: Attempt,
        positions: Option<&HashMap<String, String>>,
        tried: &mut Tried,
    ) -> Result<Option<i64>, TargetError> {
        let requirements = json!([
            {"type": "assert-table-uuid", "uuid": self.metadata.uuid()},
            {"type": "assert-ref-snapshot-id", "ref": MAIN_BRANCH, "snapshot-id": self.metadata.current_snapshot_id()},
        ]);
        let mut updates = vec![
            json!({"action": "add-snapshot", "snapshot": attempt.snapshot}),
            json!({"action": "set-snapshot-ref", "ref-name": MAIN_BRANCH, "type": "branch", "snapshot-id": attempt.id}),
        ];
        updates.extend(positions.map(|positions| json!({"action": "set-properties", "updates": positions})));
        let updates = Value::Array(updates);
        let id = attempt.id;
        tried.attempts.push(attempt);
        match self.catalog.commit(&requirements, &updates).await {
            Ok(metadata) => {
                self.metadata = metadata;
                Ok(Some(id))
            }
            Err(Trouble::Conflict(_)) => {
                tried.conflicts += 1;
                Ok(None)
            }
            Err(Trouble::Unknown(text)) => {
                tried.is_unknown = true;
                Err(TargetError::Away(text))
            }
            Err(Trouble::Error(error)) => Err(error),
        }
    }

    /// Deletes the files of attempts that did not come to pass. What the catalog decided, no attempt of before can change: each asserted a snapshot
    /// that is not the newest any more. What goes wrong here leaves small files.
    pub(crate) async fn clear(&self, tried: &Tried, committed: Option<i64>) {
        for attempt in tried.attempts.iter().filter(|attempt| Some(attempt.id) != committed) {
            for file in &attempt.made {
                if let Err(error) = self.files.delete(file).await {
                    tracing::debug!(table = %self.catalog.name, file, "a file of a commit that did not come to pass stays: {error}");
                }
            }
        }
    }

    /// Adds columns that the table lacks; `is_same` tells whether one of that name that is there will do.
    ///
    /// Errors: `Fenced`: another writer gave one of them another type meanwhile; `Away`: the catalog can't be reached.
    pub async fn widen(&mut self, added: &[Field], is_same: impl Fn(&Field, &Field) -> bool) -> Result<(), TargetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.refresh().await?;
            let there = self.fields();
            let mut lacking = Vec::new();
            for field in added {
                match there.iter().find(|known| known.name.to_lowercase() == field.name.to_lowercase()) {
                    None => lacking.push(field),
                    Some(known) if is_same(known, field) => {}
                    Some(known) => {
                        return Err(TargetError::Fenced(format!(
                            "another writer made the column `{}` a {:?} meanwhile; what was read since is read again",
                            known.name, known.of
                        )));
                    }
                }
            }
            if lacking.is_empty() {
                return Ok(());
            }
            let before = self.metadata.last_column_id();
            let mut last = before;
            let mut next = || {
                last += 1;
                last
            };
            let mut schema = serde_json::to_value(self.metadata.current_schema().as_ref())
                .map_err(|error| TargetError::Refused(format!("the schema of {} cannot be written: {error}", self.catalog.name)))?;
            let newest = self.metadata.schemas_iter().map(|schema| schema.schema_id()).max().unwrap_or(0);
            schema["schema-id"] = json!(newest + 1);
            let columns: Vec<Value> = lacking.iter().map(|field| field.write(&mut next)).collect();
            schema["fields"].as_array_mut().into_iter().for_each(|fields| fields.extend(columns.iter().cloned()));
            let requirements = json!([
                {"type": "assert-table-uuid", "uuid": self.metadata.uuid()},
                {"type": "assert-current-schema-id", "current-schema-id": self.metadata.current_schema_id()},
                {"type": "assert-last-assigned-field-id", "last-assigned-field-id": before},
            ]);
            let updates = json!([
                {"action": "add-schema", "schema": schema, "last-column-id": last},
                {"action": "set-current-schema", "schema-id": -1},
            ]);
            let trouble = match self.catalog.commit(&requirements, &updates).await {
                Ok(metadata) => {
                    self.metadata = metadata;
                    let names: Vec<&str> = lacking.iter().map(|field| field.name.as_str()).collect();
                    tracing::info!(table = %self.catalog.name, columns = names.join(", "), "the table has new columns");
                    return Ok(());
                }
                // Whether it took effect, the newest metadata say.
                Err(Trouble::Conflict(text) | Trouble::Unknown(text)) => text,
                Err(Trouble::Error(error)) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(TargetError::Away(trouble));
            }
            tokio::time::sleep(Duration::from_millis(50).mul_f64(0.5 + fastrand::f64())).await;
        }
    }
}

/// What a commit went through so far.
pub(crate) struct Tried {
    pub batch: String,
    attempts: Vec<Attempt>,
    /// An attempt may have taken effect.
    pub is_unknown: bool,
    pub conflicts: u32,
}

impl Tried {
    pub fn new() -> Self {
        Self { batch: uuid::Uuid::new_v4().to_string(), attempts: Vec::new(), is_unknown: false, conflicts: 0 }
    }
}
