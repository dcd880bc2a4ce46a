//! Samples out of a file's records: which columns or pointers are tags, and their rows in a batch.

use crate::csv::Fields;
use millrace_config::{Problems, Short, Shorthand, Spanned};
use millrace_contract::{Context, Failure, SourceIo, TagDef, Tagged};
use millrace_kit::extract::{CellType, Extracted, Extraction, Pointer, RowExtraction};
use millrace_kit::time::{Clock, TimeConfig};
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// One tag out of each record.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSample {
    /// Where its value stands: the name of the column, or the JSON Pointer.
    pub at: Spanned<String>,
    /// The type of a column. Left out: a number where the field reads as one, else a text.
    #[serde(default, rename = "as")]
    pub cell_type: Option<CellType>,
}

impl Shorthand for FileSample {
    const KEY: &'static str = "at";
}

/// Names of tags, and where their values stand.
pub type SamplesConfig = BTreeMap<String, Spanned<Tagged<Short<FileSample>>>>;

/// What a record without a sample's column or pointer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// A sample without value, status BadNotFound, after `bad_after`.
    #[default]
    Bad,
    /// Nothing.
    Skip,
}

/// Older than this when it is read, a record is history: origin `backfill`.
const LIVE_MICROS: i64 = 60_000_000;

/// Checked samples of a source.
#[derive(Clone, Debug)]
pub struct Samples {
    tags: Vec<TagDef>,
    cells: Vec<(String, Option<CellType>)>,
    /// Of NDJSON.
    extraction: Option<Arc<Extraction>>,
    /// Of CSV.
    time: Option<(String, Clock)>,
    status: Option<String>,
    missing: Missing,
}

impl Samples {
    /// Checks the configuration; `is_csv` says whether places are columns or pointers.
    pub fn compile(
        (samples, time, status, missing): (&SamplesConfig, Option<&TimeConfig>, Option<&Spanned<String>>, Missing),
        is_csv: bool,
        topic: &Arc<str>,
        context: &Context,
        problems: &mut Problems,
    ) -> Option<Self> {
        let clock = match time {
            Some(time) => Some((time.at.clone(), Clock::compile(time, problems)?)),
            None => None,
        };
        let mut pointer = |text: &Spanned<String>| match Pointer::parse(text) {
            Ok(pointer) => Some(pointer),
            Err(error) => {
                problems.error(text.place, error);
                None
            }
        };
        let extraction = if is_csv {
            None
        } else {
            let pointers: Vec<_> =
                samples.values().filter_map(|sample| Some((pointer(&sample.own.at)?, sample.options.structure))).collect();
            let time = match &clock {
                Some((at, clock)) => Some((pointer(at)?, clock.clone())),
                None => None,
            };
            let status = match status {
                Some(status) => Some(pointer(status)?),
                None => None,
            };
            let wanted = pointers.iter().map(|(pointer, structure)| (pointer, structure.or(context.options.structure)));
            Some(Arc::new(Extraction::new(wanted, time, status)))
        };
        let mut tags = Vec::new();
        let mut cells = Vec::new();
        for (name, sample) in samples {
            if name.split('/').any(str::is_empty) {
                problems.error(sample.place, format!("the name `{name}` has an empty level"));
            }
            if let Some(of) = sample.own.cell_type.filter(|_| !is_csv) {
                problems.error(sample.place, format!("`as: {of:?}` is for columns: JSON says its types itself"));
            }
            let options = sample.options.over(&context.options);
            tags.push(TagDef {
                path: if context.at.is_empty() { name.clone() } else { format!("{}/{name}", context.at) },
                address: sample.own.at.value.clone(),
                kind: None,
                topic: options.topic.as_deref().map_or_else(|| topic.clone(), Arc::from),
                part: Arc::from(""),
                options: Arc::new(options),
            });
            cells.push((sample.own.at.value.clone(), sample.own.cell_type));
        }
        let time = clock.map(|(at, clock)| (at.value, clock));
        Some(Self { tags, cells, extraction, time, status: status.map(|status| status.value.clone()), missing })
    }

    pub fn tags(&self) -> &[TagDef] {
        &self.tags
    }
}

/// The tags of one session, declared.
#[derive(Clone)]
pub struct Declared {
    io: SourceIo,
    ids: Vec<TagId>,
    /// Leaves of structures, as they were met.
    leaves: HashMap<(usize, String), Result<TagId, String>>,
    /// Samples whose column the last file lacked: said once.
    absent: HashSet<usize>,
}

impl Declared {
    pub fn new(io: &SourceIo, samples: Option<&Samples>) -> Result<Self, Failure> {
        let mut ids = Vec::new();
        for tag in samples.into_iter().flat_map(Samples::tags) {
            ids.push(io.declare(tag.clone()).map_err(|clash| Failure::Blocked(format!("{clash}; give one of them another name")))?);
        }
        Ok(Self { io: io.clone(), ids, leaves: HashMap::new(), absent: HashSet::new() })
    }

    fn leaf(&mut self, samples: &Samples, sample: usize, leaf: &str) -> Result<TagId, String> {
        if let Some(known) = self.leaves.get(&(sample, leaf.to_owned())) {
            return known.clone();
        }
        let of = &samples.tags[sample];
        let tag = TagDef { path: format!("{}/{leaf}", of.path), address: format!("{}/{leaf}", of.address), ..of.clone() };
        let declared = self.io.declare(tag).map_err(|clash| clash.to_string());
        self.leaves.insert((sample, leaf.to_owned()), declared.clone());
        declared
    }
}

/// Reads the samples of one file's records.
pub struct Sampler {
    samples: Arc<Samples>,
    how: How,
    extracted: Extracted,
}

enum How {
    Json(Arc<Extraction>),
    Row {
        extraction: RowExtraction,
        /// Which samples the file has columns for.
        present: Vec<usize>,
        /// Which it has none for.
        absent: Vec<usize>,
    },
}

impl Sampler {
    /// Errors: the file has no column for the time or the status.
    pub fn new(samples: &Arc<Samples>, columns: &[String]) -> Result<Self, String> {
        let how = match &samples.extraction {
            Some(extraction) => How::Json(extraction.clone()),
            None => {
                let header: Vec<_> = columns.iter().map(String::as_str).collect();
                let (present, absent): (Vec<_>, Vec<_>) =
                    (0..samples.cells.len()).partition(|n| header.contains(&samples.cells[*n].0.as_str()));
                let cells = present.iter().map(|n| (samples.cells[*n].0.as_str(), samples.cells[*n].1));
                let time = samples.time.as_ref().map(|(at, clock)| (at.as_str(), clock.clone()));
                How::Row { extraction: RowExtraction::new(&header, cells, time, samples.status.as_deref())?, present, absent }
            }
        };
        Ok(Self { samples: samples.clone(), how, extracted: Extracted::default() })
    }

    /// Appends the samples of a JSON record.
    pub fn json(&mut self, payload: &[u8], declared: &mut Declared, batch: &mut Batch) -> Result<(), String> {
        if let How::Json(extraction) = &self.how {
            extraction.read(payload, batch, &mut self.extracted)?;
        }
        self.push(declared, batch)
    }

    /// Appends the samples of a CSV record, its fields readable text.
    pub fn row(&mut self, fields: &Fields, path: &Path, declared: &mut Declared, batch: &mut Batch) -> Result<(), String> {
        if let How::Row { extraction, present, absent } = &self.how {
            let cell = |index| fields.get(index).and_then(|field| std::str::from_utf8(field).ok());
            extraction.read(cell, batch, &mut self.extracted)?;
            if !declared.absent.is_empty() {
                declared.absent.retain(|sample| !present.contains(sample));
            }
            for &sample in absent {
                if !declared.absent.insert(sample) {
                    continue;
                }
                tracing::warn!(path = %path.display(), column = self.samples.cells[sample].0, "the file has no such column; its tag is bad");
                let time = self.extracted.time.map_or(batch.read_time, |stamp| stamp.time);
                batch.rows.push(row(declared.ids[sample], time, Value::Null, StatusCode::BAD_NOT_FOUND, Origin::Status, false));
            }
        }
        self.push(declared, batch)
    }

    fn push(&mut self, declared: &mut Declared, batch: &mut Batch) -> Result<(), String> {
        let stamp = self.extracted.time;
        let time = stamp.map_or(batch.read_time, |stamp| stamp.time);
        let is_history = batch.read_time.0.saturating_sub(time.0) > LIVE_MICROS;
        let origin = if is_history { Origin::Backfill } else { Origin::Change };
        for found in self.extracted.iter() {
            if found.is_missing() && self.samples.missing == Missing::Skip {
                continue;
            }
            let sample = match &self.how {
                How::Json(_) => found.sample,
                How::Row { present, .. } => present[found.sample],
            };
            let tag = match found.leaf {
                "" => declared.ids[sample],
                leaf => declared.leaf(&self.samples, sample, leaf)?,
            };
            batch.rows.push(row(tag, time, found.value, found.status, origin, stamp.is_some()));
        }
        Ok(())
    }
}

fn row(tag: TagId, time: Micros, value: Value, status: StatusCode, origin: Origin, is_device: bool) -> Row {
    let time_source = if is_device { TimeSource::Device } else { TimeSource::Gateway };
    Row { time, server_time: Micros::NONE, value, tag, status, flags: Flags::new(origin, time_source) }
}
