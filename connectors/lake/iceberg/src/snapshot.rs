//! The files of one commit: a manifest of the new data files, and the list of all manifests.
//!
//! Manifests are small and many: where there are [`MANY`], those of the same partitioning become one, as Iceberg's own writers do it.

use crate::Files;
use crate::data_file::{Attempt, DataFile, Metrics};
use crate::table::Table;
use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal, ManifestContentType, ManifestFile, ManifestList,
    ManifestListWriter, ManifestWriterBuilder, PrimitiveType, Struct, TableMetadata, Type,
};
use millrace_kit::parts::TargetError;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Manifests of one size that are merged.
const MANY: usize = 100;
/// A merged manifest is left as it is.
const LARGE: i64 = 8 << 20;

pub(crate) fn failed(error: &iceberg::Error) -> TargetError {
    TargetError::Refused(format!("cannot write Iceberg's metadata: {error}"))
}

fn read_failed(location: &str, error: &iceberg::Error) -> TargetError {
    TargetError::Refused(format!("cannot read {location}: {error}"))
}

/// All manifests of a snapshot.
pub(crate) async fn manifests(files: &dyn Files, metadata: &TableMetadata) -> Result<Vec<ManifestFile>, TargetError> {
    let Some(snapshot) = metadata.current_snapshot() else { return Ok(Vec::new()) };
    let location = snapshot.manifest_list();
    let bytes = files.read(location).await?;
    let list = ManifestList::parse_with_version(&bytes, metadata.format_version()).map_err(|error| read_failed(location, &error))?;
    Ok(list.consume_entries().into_iter().collect())
}

/// The entries of a manifest, with what they inherit from the list.
pub(crate) async fn entries(files: &dyn Files, file: &ManifestFile) -> Result<iceberg::spec::Manifest, TargetError> {
    let failed = |error: iceberg::Error| read_failed(&file.manifest_path, &error);
    let bytes = files.read(&file.manifest_path).await?;
    let memory = FileIO::new_with_memory();
    memory.new_output(&file.manifest_path).map_err(failed)?.write(bytes).await.map_err(failed)?;
    file.load_manifest(&memory).await.map_err(failed)
}

impl Table {
    /// Writes the manifest and the list of a new snapshot.
    ///
    /// `summary`: what its summary says besides the counts.
    pub(crate) async fn attempt(&self, data: &[DataFile], summary: &HashMap<String, String>) -> Result<Attempt, TargetError> {
        let mut draft = self.draft();
        let all = manifests(&*self.files, &self.metadata).await?;
        let mut list: Vec<ManifestFile> = all.into_iter().filter(is_live).collect();
        let merged = draft.location("merged");
        self.merge(&mut list, draft.id, &merged, &mut draft.made).await?;
        if !data.is_empty() {
            self.add_manifest(&mut draft, data, &mut list).await?;
        }
        self.finish(draft, list, self.summary("append", data, Count::default(), summary)).await
    }

    pub(crate) fn draft(&self) -> Draft {
        let id = (uuid::Uuid::new_v4().as_u128() as i64).saturating_abs();
        Draft { id, stem: format!("{}/{}", self.metadata_folder(), uuid::Uuid::new_v4()), made: Vec::new() }
    }

    /// Writes the manifest of new files.
    pub(crate) async fn add_manifest(&self, draft: &mut Draft, data: &[DataFile], list: &mut Vec<ManifestFile>) -> Result<(), TargetError> {
        let location = draft.location("m0");
        let mut writer = self.manifest(&location, draft.id, self.spec_id)?;
        for file in data {
            // Without a number of its own: it takes the snapshot's.
            writer.writer.add_file(self.data_file(file)?, -1).map_err(|error| failed(&error))?;
        }
        draft.made.push(location);
        list.push(writer.put(&*self.files).await?);
        Ok(())
    }

    /// Writes the list of manifests, and describes the snapshot.
    pub(crate) async fn finish(&self, draft: Draft, list: Vec<ManifestFile>, summary: Value) -> Result<Attempt, TargetError> {
        let (metadata, id) = (&self.metadata, draft.id);
        let location = draft.location(&format!("snap-{id}"));
        let mut made = draft.made;
        let (row, rows) = self.put_list(&location, id, list).await?;
        made.push(location.clone());
        let newest = metadata.snapshots().map(|snapshot| snapshot.timestamp_ms()).max().unwrap_or(0);
        let mut snapshot = json!({
            "snapshot-id": id, "sequence-number": metadata.next_sequence_number(), "timestamp-ms": now_ms().max(newest),
            "manifest-list": location, "schema-id": metadata.current_schema_id(), "summary": summary,
        });
        if let Some(parent) = metadata.current_snapshot_id() {
            snapshot["parent-snapshot-id"] = json!(parent);
        }
        if metadata.format_version() == FormatVersion::V3 {
            snapshot["first-row-id"] = json!(row);
            snapshot["added-rows"] = json!(rows);
        }
        Ok(Attempt { id, made, snapshot })
    }

    /// The folder of lists and manifests.
    pub fn metadata_folder(&self) -> String {
        let location = self.metadata.location().trim_end_matches('/');
        self.metadata
            .properties()
            .get("write.metadata.path")
            .map_or_else(|| format!("{location}/metadata"), |path| path.trim_end_matches('/').to_owned())
    }

    /// The row that the snapshot's first is, and how many it counts.
    async fn put_list(&self, location: &str, id: i64, list: Vec<ManifestFile>) -> Result<(u64, u64), TargetError> {
        let metadata = &self.metadata;
        let (parent, number, row) = (metadata.current_snapshot_id(), metadata.next_sequence_number(), metadata.next_row_id());
        let memory = FileIO::new_with_memory();
        let output = memory.new_output(location).map_err(|error| failed(&error))?;
        let writer = output.writer().await.map_err(|error| failed(&error))?;
        let mut writer = match metadata.format_version() {
            FormatVersion::V3 => ManifestListWriter::v3(writer, id, parent, number, Some(row)),
            _ => ManifestListWriter::v2(writer, id, parent, number),
        };
        writer.add_manifests(list.into_iter()).map_err(|error| failed(&error))?;
        let next = writer.next_row_id().unwrap_or(row);
        writer.close().await.map_err(|error| failed(&error))?;
        let bytes = output.to_input_file().read().await.map_err(|error| failed(&error))?;
        self.files.write(location, bytes).await?;
        Ok((row, next - row))
    }

    pub(crate) fn manifest(&self, location: &str, id: i64, spec: i32) -> Result<Manifest, TargetError> {
        let metadata = &self.metadata;
        let spec =
            metadata.partition_spec_by_id(spec).ok_or_else(|| TargetError::Refused(format!("the table has no partitioning {spec}")))?;
        let memory = FileIO::new_with_memory();
        let output = memory.new_output(location).map_err(|error| failed(&error))?;
        let builder = ManifestWriterBuilder::new(output, Some(id), metadata.current_schema().clone(), spec.as_ref().clone());
        let writer = match metadata.format_version() {
            FormatVersion::V3 => builder.build_v3_data(),
            _ => builder.build_v2_data(),
        };
        Ok(Manifest { location: location.to_owned(), memory, writer })
    }

    /// Makes one manifest of many small ones of our partitioning. The rows' numbers stay.
    async fn merge(&self, list: &mut Vec<ManifestFile>, id: i64, location: &str, made: &mut Vec<String>) -> Result<(), TargetError> {
        let fits = |file: &ManifestFile| {
            file.content == ManifestContentType::Data && file.partition_spec_id == self.spec_id && file.manifest_length < LARGE / 2
        };
        // A table that counts rows by manifest keeps its manifests.
        if list.iter().filter(|file| fits(file)).count() < MANY || self.metadata.format_version() == FormatVersion::V3 {
            return Ok(());
        }
        let mut merged = self.manifest(location, id, self.spec_id)?;
        let mut kept = Vec::new();
        let mut length = 0;
        for file in std::mem::take(list) {
            if !fits(&file) || length > LARGE {
                kept.push(file);
                continue;
            }
            length += file.manifest_length;
            let manifest = entries(&*self.files, &file).await?;
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                let (Some(of), Some(number)) = (entry.snapshot_id(), entry.sequence_number()) else {
                    return Err(TargetError::Refused(format!("{} has an entry without a number", file.manifest_path)));
                };
                let file_number = entry.file_sequence_number.or(Some(number));
                let data = entry.data_file().clone();
                merged.writer.add_existing_file(data, of, number, file_number).map_err(|error| failed(&error))?;
            }
        }
        made.push(location.to_owned());
        kept.insert(0, merged.put(&*self.files).await?);
        *list = kept;
        Ok(())
    }

    /// The file as a manifest has it.
    fn data_file(&self, file: &DataFile) -> Result<iceberg::spec::DataFile, TargetError> {
        let schema = self.metadata.current_schema();
        let mut partition = vec![Some(Literal::date(file.day))];
        if self.has_level {
            partition.push(file.level.as_ref().map(Literal::string));
        }
        let (mut lower, mut upper) = (HashMap::new(), HashMap::new());
        for column in &file.columns {
            let Some((least, greatest)) = &column.bounds else { continue };
            let of = schema.field_by_id(column.id).map(|field| &*field.field_type);
            if let Some(Type::Primitive(of)) = of {
                lower.insert(column.id, datum(least, of)?);
                upper.insert(column.id, datum(greatest, of)?);
            }
        }
        let of =
            |take: fn(&Metrics) -> Option<u64>| file.columns.iter().filter_map(|one| Some((one.id, take(one)?))).collect::<HashMap<_, _>>();
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(file.location.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::from_iter(partition))
            .partition_spec_id(self.spec_id)
            .record_count(file.rows)
            .file_size_in_bytes(file.size)
            .column_sizes(of(|one| Some(one.bytes)))
            .value_counts(of(|one| Some(one.values)))
            .null_value_counts(of(|one| one.nulls))
            .lower_bounds(lower)
            .upper_bounds(upper)
            .split_offsets(Some(file.groups.clone()));
        if let Some(order) = self.sort_order {
            builder.sort_order_id(order);
        }
        builder.build().map_err(|error| TargetError::Refused(format!("cannot describe {}: {error}", file.location)))
    }

    /// What a snapshot says of itself: what came, what went, and what there is.
    pub(crate) fn summary(&self, operation: &str, data: &[DataFile], removed: Count, more: &HashMap<String, String>) -> Value {
        let before = self.metadata.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
        let mut added = Count::default();
        data.iter().for_each(|file| added.add(file.rows, file.size));
        let counts = [
            ("data-files", "deleted-data-files", added.files, removed.files),
            ("records", "deleted-records", added.rows, removed.rows),
            ("files-size", "removed-files-size", added.bytes, removed.bytes),
            ("delete-files", "", 0, 0),
            ("position-deletes", "", 0, 0),
            ("equality-deletes", "", 0, 0),
        ];
        let mut all: Map<String, Value> = more.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        all.insert("operation".into(), json!(operation));
        for (name, went, count, less) in counts {
            if count > 0 {
                all.insert(format!("added-{name}"), json!(count.to_string()));
            }
            if less > 0 {
                all.insert(went.to_owned(), json!(less.to_string()));
            }
            let total = format!("total-{name}");
            // What the snapshot before did not say, this one can't know.
            let was = before.map_or(Some(0), |before| before.get(&total)?.parse::<u64>().ok());
            if let Some(was) = was {
                all.insert(total, json!((was + count).saturating_sub(less).to_string()));
            }
        }
        let mut partitions: Vec<_> = data.iter().map(|file| (file.day, &file.level)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        if !partitions.is_empty() {
            all.insert("changed-partition-count".into(), json!(partitions.len().to_string()));
        }
        Value::Object(all)
    }
}

/// A snapshot whose files are being written.
pub(crate) struct Draft {
    pub id: i64,
    /// How the names of its files begin.
    stem: String,
    pub made: Vec<String>,
}

impl Draft {
    pub fn location(&self, what: &str) -> String {
        format!("{}-{what}.avro", self.stem)
    }
}

/// Of data files that come, or go.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    files: u64,
    rows: u64,
    bytes: u64,
}

impl Count {
    pub fn add(&mut self, rows: u64, bytes: u64) {
        *self = Self { files: self.files + 1, rows: self.rows + rows, bytes: self.bytes + bytes };
    }
}

/// Whether a manifest holds files: what was deleted by a snapshot before is nothing to the next one.
pub(crate) fn is_live(file: &ManifestFile) -> bool {
    file.has_added_files() || file.has_existing_files()
}

pub(crate) struct Manifest {
    location: String,
    memory: FileIO,
    pub writer: iceberg::spec::ManifestWriter,
}

impl Manifest {
    pub async fn put(self, files: &dyn Files) -> Result<ManifestFile, TargetError> {
        let manifest = self.writer.write_manifest_file().await.map_err(|error| failed(&error))?;
        let input = self.memory.new_input(&self.location).map_err(|error| failed(&error))?;
        let bytes: Bytes = input.read().await.map_err(|error| failed(&error))?;
        files.write(&self.location, bytes).await?;
        Ok(manifest)
    }
}

fn datum(bytes: &[u8], of: &PrimitiveType) -> Result<Datum, TargetError> {
    Datum::try_from_bytes(bytes, of.clone()).map_err(|error| failed(&error))
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
