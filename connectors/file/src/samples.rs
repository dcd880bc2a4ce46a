//! Samples out of a file's records: which columns or pointers are tags, and their rows in a batch.
//!
//! ```text
//! samples: {torque: torque_nm}                    a column or a pointer is a tag: wide tables
//! tag: "{TagName}", value: Value                  a record is a reading and names its tag: long tables, historians' exports
//! each: /values, tag: "{/id}", value: /v          a record holds a list of readings
//! ```

use crate::content::stem;
use crate::csv::Fields;
use millrace_config::{Problems, Reason, Spanned};
use millrace_contract::{Context, Failure, SourceIo, TagDef, TagOptions};
use millrace_kit::extract::{
    self, CellType, Each, Extracted, Extraction, FirstTypes, Item, Missing, Name, Notation, Nulls, Places, Pointer, Readings,
    RowExtraction, Rules, SampleConfig, SamplesConfig, StatusAt, StatusConfig, StatusNotation, Taken, TimeAt, Wanted,
};
use millrace_kit::template::push_level;
use millrace_kit::time::{Clock, Stamp, TimeConfig};
use millrace_kit::{Leaves, Template};
use millrace_schemas::{Batch, Flags, Micros, Origin, Reject, RouteId, Row, Span, StatusCode, TagId, TimeSource, Value};
use std::collections::HashSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

/// Older than this when it is read, a record is history: origin `backfill`.
const LIVE_MICROS: i64 = 60_000_000;
/// A record of a historian that is further ahead is misread: a clock of another zone is less than a day ahead.
const AHEAD_MICROS: i64 = 86_400_000_000;

/// The keys that say which tags a record holds.
pub struct Keys<'a> {
    pub samples: Option<&'a Spanned<SamplesConfig>>,
    pub each: Option<&'a Places>,
    pub tag: Option<&'a Spanned<String>>,
    pub value: Option<&'a Places>,
    pub declared: Option<CellType>,
    pub max_tags: usize,
    pub is_history: bool,
    pub time: Option<&'a TimeConfig>,
    pub status: Option<&'a StatusConfig>,
    pub nulls: Option<&'a Nulls>,
    pub missing: Missing,
    pub notation: Notation,
    pub is_csv: bool,
}

/// What stands in braces in the name of a reading's tag.
#[derive(Clone, Debug)]
enum Part {
    /// `{file}`: the file's name up to its first dot.
    File,
    /// `{key}`, `{/id}`.
    Name(Name),
    /// `{TagName}`: a column.
    Column(Box<str>),
}

/// One value of each record.
#[derive(Clone, Debug)]
struct Wants {
    /// Below the reading's tag, or the whole name.
    name: Box<str>,
    places: Vec<String>,
    rules: Rules,
    options: Arc<TagOptions>,
    topic: Arc<str>,
}

/// Checked samples of a source.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Known beforehand: those of `samples` without `tag`.
    tags: Vec<TagDef>,
    wants: Vec<Wants>,
    /// The tag that each reading names.
    reading: Option<Template<Part>>,
    /// Of JSON.
    json: Option<Json>,
    /// Of CSV.
    time: Option<(Vec<String>, Clock)>,
    status: Option<(String, StatusNotation)>,
    pub missing: Missing,
    clock: Option<Clock>,
    max_tags: usize,
    pub is_history: bool,
}

#[derive(Clone, Debug)]
enum Json {
    One(Arc<Extraction>),
    Each(Arc<Each>),
}

impl Samples {
    /// Checks the configuration.
    pub fn compile(keys: &Keys<'_>, topic: &Arc<str>, context: &Context, problems: &mut Problems) -> Option<Self> {
        let clock = match keys.time {
            Some(time) => Some(Clock::compile(time, problems)?),
            None => None,
        };
        let (reading, names) = match keys.tag {
            None => (None, Vec::new()),
            Some(tag) => {
                let text = if context.at.is_empty() { tag.value.clone() } else { format!("{}/{}", context.at, tag.value) };
                let reading = Template::compile(&text, tag.place, problems, |name| part(name, keys.is_csv))?;
                let names = reading.variables().filter_map(|part| match part {
                    Part::Name(Name::Pointer(pointer)) => Some(pointer.clone()),
                    _ => None,
                });
                let names = names.collect();
                (Some(reading), names)
            }
        };
        let mut wants = Vec::new();
        let mut tags = Vec::new();
        for (name, sample) in keys.samples.iter().flat_map(|samples| &samples.value) {
            if name.split('/').any(str::is_empty) {
                problems.error(sample.place, format!("the name `{name}` has an empty level"));
            }
            let options = sample.options.over(&context.options);
            wants.push(want(name, &sample.own, options, topic, keys));
        }
        if let Some(value) = keys.value {
            let own = SampleConfig { at: value.clone(), declared: keys.declared, nulls: None, map: None };
            wants.push(want("", &own, context.options.clone(), topic, keys));
        }
        if reading.is_none() {
            tags = wants.iter().map(|want| want.def(&context.at)).collect();
        }
        let pointers = |texts: &[String], problems: &mut Problems| {
            let place = keys.samples.map(|samples| samples.place).or(keys.value.map(Places::first)).unwrap_or(context.place);
            let pointers = texts.iter().map(|text| Pointer::compile(&Spanned { value: text.clone(), place }, problems));
            pointers.collect::<Option<Vec<_>>>()
        };
        let json = if keys.is_csv {
            None
        } else {
            let time = match (keys.time, &clock) {
                (Some(time), Some(clock)) => Some(TimeAt { pointers: time.at.pointers(problems)?, clock: clock.clone() }),
                _ => None,
            };
            let status = match keys.status {
                Some(status) => Some(StatusAt { pointer: Pointer::compile(&status.at, problems)?, notation: status.notation() }),
                None => None,
            };
            let mut wanted = Vec::new();
            for want in &wants {
                let pointers = pointers(&want.places, problems)?;
                wanted.push(Wanted { pointers, structure: want.options.structure, rules: want.rules.clone() });
            }
            Some(if reading.is_some() {
                let levels = match keys.each {
                    Some(each) => each.pointers(problems)?,
                    None => Vec::new(),
                };
                Json::Each(Arc::new(Each::new(levels, wanted, names, time, status)))
            } else {
                Json::One(Arc::new(Extraction::new(wanted, time, status)))
            })
        };
        let columns = |places: &Places| places.0.iter().map(|place| place.value.clone()).collect::<Vec<_>>();
        let time = keys.time.zip(clock.clone()).map(|(time, clock)| (columns(&time.at), clock));
        let status = keys.status.map(|status| (status.at.value.clone(), status.notation()));
        let Keys { missing, max_tags, is_history, .. } = *keys;
        Some(Self { tags, wants, reading, json, time, status, missing, clock, max_tags, is_history })
    }

    /// Refuses a record of a historian whose time is not believed, or that holds what cannot be read: as a whole, so that nothing of it is lost.
    fn judge(&self, extracted: &Extracted, read_time: Micros) -> Result<(), Reason> {
        if !self.is_history {
            return Ok(());
        }
        if let Some(stamp) = extracted.time {
            if let Some(doubt) = self.clock.as_ref().and_then(|clock| clock.doubt(stamp)) {
                return Err(doubt.into());
            }
            if stamp.time.0 > read_time.0.saturating_add(AHEAD_MICROS) {
                let time =
                    jiff::Timestamp::from_microsecond(stamp.time.0).map_or_else(|_| "beyond any calendar".into(), |time| time.to_string());
                return Err(format!("the time {time} lies ahead: are its `unit` or `format` right, and its `zone`?").into());
            }
        }
        if let Some(note) = &extracted.note {
            return Err(note.clone());
        }
        match extracted.iter().find_map(|found| found.why) {
            Some(why) => Err(why.to_owned().into()),
            None => Ok(()),
        }
    }

    pub fn tags(&self) -> &[TagDef] {
        &self.tags
    }

    /// What a record holds, for a person.
    pub fn describe(&self) -> String {
        match &self.reading {
            None => format!("{} tags out of each record", self.tags.len()),
            Some(_) if matches!(self.json, Some(Json::Each(_))) => "readings out of each record, tags as they are named there".into(),
            Some(_) => "a reading out of each record, its tag as it is named there".into(),
        }
    }
}

fn want(name: &str, own: &SampleConfig, options: TagOptions, topic: &Arc<str>, keys: &Keys<'_>) -> Wants {
    Wants {
        name: name.into(),
        places: own.at.0.iter().map(|place| place.value.clone()).collect(),
        rules: Rules::of(own, &options, keys.notation, keys.nulls),
        topic: options.topic.as_deref().map_or_else(|| topic.clone(), Arc::from),
        options: Arc::new(options),
    }
}

impl Wants {
    fn def(&self, at: &str) -> TagDef {
        let path = match (at.is_empty(), self.name.is_empty()) {
            (true, _) => self.name.to_string(),
            (false, true) => at.to_owned(),
            (false, false) => format!("{at}/{}", self.name),
        };
        TagDef {
            path,
            address: self.places.join(" or "),
            kind: None,
            topic: self.topic.clone(),
            part: Arc::from(""),
            options: self.options.clone(),
        }
    }
}

fn part(name: &str, is_csv: bool) -> Result<Part, Reason> {
    match name {
        "" => Err("empty; write a column, a JSON pointer such as `{/id}`, `{key}` or `{file}`".into()),
        "file" => Ok(Part::File),
        _ if is_csv => Ok(Part::Column(name.into())),
        "key" => Ok(Part::Name(Name::Key)),
        name if name.starts_with('/') => Pointer::parse(name).map(|pointer| Part::Name(Name::Pointer(pointer))),
        name => Err(format!("unknown here; there are `{{/{name}}}` (a JSON pointer into the reading), `{{key}}` and `{{file}}`").into()),
    }
}

/// The tags of one session, declared.
#[derive(Clone)]
pub struct Declared {
    io: SourceIo,
    ids: Vec<TagId>,
    /// Leaves of structures, and tags that readings name, as they were met.
    leaves: Leaves,
    types: FirstTypes,
    /// Samples whose column the last file lacked: said once.
    absent: HashSet<usize>,
}

impl Declared {
    pub fn new(io: &SourceIo, samples: Option<&Samples>) -> Result<Self, Failure> {
        let mut ids = Vec::new();
        for tag in samples.into_iter().flat_map(Samples::tags) {
            ids.push(io.declare(tag.clone()).map_err(|clash| Failure::Blocked(format!("{clash}; give one of them another name")))?);
        }
        Ok(Self { io: io.clone(), ids, leaves: Leaves::default(), types: FirstTypes::default(), absent: HashSet::new() })
    }
}

/// Reads the samples of one file's records.
pub struct Sampler {
    samples: Arc<Samples>,
    row: Option<Table>,
    extracted: Extracted,
    readings: Readings,
    stem: String,
    /// What a person should look at; the first of its kind.
    pub trouble: Option<String>,
}

/// The columns of one table.
struct Table {
    extraction: RowExtraction,
    /// Which samples the file has columns for.
    present: Vec<usize>,
    /// Which it has none for.
    absent: Vec<usize>,
    /// The columns in the name of a reading's tag, in their order.
    names: Vec<usize>,
}

impl Sampler {
    /// Errors: the file has no column for the time, the status or the name of a tag, or for none of the samples.
    pub fn new(samples: &Arc<Samples>, columns: &[String], path: &Path) -> Result<Self, Reason> {
        let row = if samples.json.is_some() { None } else { Some(Table::of(samples, columns)?) };
        let trouble = row.as_ref().filter(|row| !row.absent.is_empty() && samples.missing == Missing::Bad).map(|row| {
            let header: Vec<_> = columns.iter().map(String::as_str).collect();
            let absent: Vec<_> = row.absent.iter().map(|n| format!("`{}`", samples.wants[*n].places.join("` or `"))).collect();
            let columns = extract::list(&header);
            format!("{}: no column {}; there are {columns}; `missing: skip` if that is meant", path.display(), absent.join(", "))
        });
        let stem = stem(path);
        Ok(Self { samples: samples.clone(), row, extracted: Extracted::default(), readings: Readings::default(), stem, trouble })
    }

    /// Something that is declared is not in the file at all: it is not to be deleted.
    pub fn lacks_columns(&self) -> bool {
        self.samples.missing == Missing::Bad && self.row.as_ref().is_some_and(|row| !row.absent.is_empty())
    }

    /// Appends the samples of a JSON record.
    pub fn json(&mut self, payload: &[u8], declared: &mut Declared, batch: &mut Batch) -> Result<(), Reason> {
        match self.json_of(payload, declared, batch) {
            Ok(()) => Ok(()),
            Err(error) => match std::str::from_utf8(payload).ok().and_then(extract::mend) {
                None => Err(error),
                Some(documents) => documents.iter().try_for_each(|document| self.json_of(document.as_bytes(), declared, batch)),
            },
        }
    }

    fn json_of(&mut self, payload: &[u8], declared: &mut Declared, batch: &mut Batch) -> Result<(), Reason> {
        let samples = self.samples.clone();
        match &samples.json {
            Some(Json::One(extraction)) => {
                extraction.read(payload, batch, &mut self.extracted)?;
                samples.judge(&self.extracted, batch.read_time)?;
                self.push(declared, batch)
            }
            Some(Json::Each(each)) => {
                let Self { readings, stem, trouble, .. } = self;
                let mut take = |taken: Taken<'_>, batch: &mut Batch| {
                    let (text, reason) = match taken {
                        Ok(item) => match push_item(&samples, &item, stem, trouble, declared, batch) {
                            Ok(()) => return,
                            Err(reason) => ("", reason),
                        },
                        Err((text, reason)) => (text, reason.into()),
                    };
                    let payload = batch.push_bytes(text.as_bytes());
                    let reason = format!("cannot read a reading: {reason}");
                    batch.rejects.push(Reject { route: RouteId(0), key: Span::EMPTY, headers: Span::EMPTY, payload, reason });
                };
                each.read(payload, batch, readings, &mut take)
            }
            None => Ok(()),
        }
    }

    /// Appends the samples of a CSV record, its fields readable text.
    pub fn row(&mut self, fields: &Fields, path: &Path, declared: &mut Declared, batch: &mut Batch) -> Result<(), Reason> {
        let Some(row) = &self.row else { return Ok(()) };
        let cell = |index| fields.get(index).and_then(|field| std::str::from_utf8(field).ok());
        row.extraction.read(cell, batch, &mut self.extracted)?;
        self.samples.judge(&self.extracted, batch.read_time)?;
        if let Some(reading) = &self.samples.reading {
            let mut names = row.names.iter();
            let mut tag = Vec::new();
            reading.fill(&mut tag, |part, out| {
                match part {
                    Part::File => push_level(out, self.stem.as_bytes()),
                    _ => match names.next().and_then(|index| cell(*index)).map(str::trim).filter(|name| !name.is_empty()) {
                        Some(name) => push_level(out, name.as_bytes()),
                        None => return Err(Reason::new("the name of the tag is missing")),
                    },
                }
                Ok(())
            })?;
            let tag = String::from_utf8(tag).map_err(|_| "the name of the tag is not UTF-8".to_owned())?;
            let Self { samples, extracted, trouble, row, .. } = self;
            let present = row.as_ref().map_or(&[][..], |row| &row.present);
            let pushing = Pushing { samples, stamp: extracted.time, trouble };
            return pushing.named(&tag, extracted, |sample| present[sample], declared, batch);
        }
        if !declared.absent.is_empty() {
            declared.absent.retain(|sample| !row.present.contains(sample));
        }
        for &sample in &row.absent {
            if self.samples.missing == Missing::Skip || !declared.absent.insert(sample) {
                continue;
            }
            let column = self.samples.wants[sample].places.join("` or `");
            tracing::warn!(path = %path.display(), column, "the file has no such column; its tag is bad");
            let time = self.extracted.time.map_or(batch.read_time, |stamp| stamp.time);
            batch.rows.push(made(declared.ids[sample], time, Value::Null, StatusCode::BAD_NOT_FOUND, Origin::Status, false));
        }
        self.push(declared, batch)
    }

    fn push(&mut self, declared: &mut Declared, batch: &mut Batch) -> Result<(), Reason> {
        let Self { samples, extracted, trouble, row, .. } = self;
        let mut pushing = Pushing { samples, stamp: extracted.time, trouble };
        pushing.note(extracted.note.as_deref());
        for found in extracted.iter() {
            let sample = row.as_ref().map_or(found.sample, |row| row.present[found.sample]);
            let tag = match found.leaf {
                "" => declared.ids[sample],
                leaf => declared.leaves.below(&samples.tags[sample], leaf, &declared.io)?,
            };
            pushing.value(tag, sample, found, &mut declared.types, batch);
        }
        Ok(())
    }
}

impl Table {
    fn of(samples: &Samples, columns: &[String]) -> Result<Self, Reason> {
        let header: Vec<_> = columns.iter().map(String::as_str).collect();
        let place = |n: &usize| samples.wants[*n].places.iter().find(|place| header.contains(&place.as_str()));
        let (present, absent): (Vec<_>, Vec<_>) = (0..samples.wants.len()).partition(|n| place(n).is_some());
        if present.is_empty() && !samples.wants.is_empty() {
            let wanted: Vec<_> = samples.wants.iter().take(5).map(|want| want.places.join("` or `")).collect();
            let there = extract::list(&header);
            let hint = if columns.len() == 1 { "; is `csv.delimiter` right?" } else { "" };
            return Err(format!("no column `{}`; there are {there}{hint}", wanted.join("`, `")).into());
        }
        let cells = present.iter().filter_map(|n| Some((place(n)?.as_str(), samples.wants[*n].rules.clone())));
        let time = samples.time.as_ref().map(|(at, clock)| (at.iter().map(String::as_str).collect::<Vec<_>>(), clock.clone()));
        let status = samples.status.as_ref().map(|(at, notation)| (at.as_str(), notation.clone()));
        let time = time.as_ref().map(|(at, clock)| (&at[..], clock.clone()));
        let extraction = RowExtraction::new(&header, cells, time, status)?;
        let names = samples.reading.iter().flat_map(Template::variables).filter_map(|part| match part {
            Part::Column(name) => Some(extract::column(&header, name)),
            _ => None,
        });
        let names = names.collect::<Result<_, _>>()?;
        Ok(Self { extraction, present, absent, names })
    }
}

/// Appends a reading of a list.
fn push_item(
    samples: &Samples,
    item: &Item<'_>,
    stem: &str,
    trouble: &mut Option<String>,
    declared: &mut Declared,
    batch: &mut Batch,
) -> Result<(), Reason> {
    let Some(reading) = &samples.reading else { return Ok(()) };
    let mut tag = Vec::new();
    let filled: Result<(), Infallible> = reading.fill(&mut tag, |part, out| {
        match part {
            Part::File => push_level(out, stem.as_bytes()),
            Part::Name(name) => push_level(out, item.name(name).as_bytes()),
            Part::Column(_) => {}
        }
        Ok(())
    });
    let Ok(()) = filled;
    let tag = String::from_utf8(tag).map_err(|_| "the name of the tag is not UTF-8".to_owned())?;
    samples.judge(item.extracted, batch.read_time)?;
    let pushing = Pushing { samples, stamp: item.extracted.time, trouble };
    pushing.found(&tag, item.values(), item.extracted.note.as_deref(), |sample| sample, declared, batch)
}

/// Values of one record on their way into the batch.
struct Pushing<'a> {
    samples: &'a Samples,
    stamp: Option<Stamp>,
    trouble: &'a mut Option<String>,
}

impl Pushing<'_> {
    fn note(&mut self, note: Option<&str>) {
        if let Some(note) = note
            && self.trouble.is_none()
        {
            *self.trouble = Some(note.to_owned());
        }
    }

    fn named(
        self,
        tag: &str,
        extracted: &Extracted,
        sample: impl Fn(usize) -> usize,
        declared: &mut Declared,
        batch: &mut Batch,
    ) -> Result<(), Reason> {
        self.found(tag, extracted.iter(), extracted.note.as_deref(), sample, declared, batch)
    }

    /// Appends the values of a reading whose tag is named in it.
    fn found<'f>(
        mut self,
        tag: &str,
        values: impl Iterator<Item = extract::Found<'f>>,
        note: Option<&str>,
        sample: impl Fn(usize) -> usize,
        declared: &mut Declared,
        batch: &mut Batch,
    ) -> Result<(), Reason> {
        self.note(note);
        let mut path = String::with_capacity(tag.len() + 16);
        for found in values {
            let sample = sample(found.sample);
            let want = &self.samples.wants[sample];
            path.clear();
            path.push_str(tag);
            for level in [&*want.name, found.leaf].into_iter().filter(|level| !level.is_empty()) {
                path.push('/');
                path.push_str(level);
            }
            let (named, most) = (declared.leaves.len(), self.samples.max_tags);
            let def = || {
                if path.split('/').any(str::is_empty) {
                    return Err(Reason::new(format!("the tag path `{path}` has an empty level")));
                }
                if named >= most {
                    return Err(format!("{most} tags are named, and {path} would be another; raise `max_tags`").into());
                }
                Ok(TagDef { path: path.clone(), ..want.def(tag) })
            };
            let id = declared.leaves.tag(&path, &declared.io, def)?;
            self.value(id, sample, found, &mut declared.types, batch);
        }
        Ok(())
    }

    fn value(&mut self, tag: TagId, sample: usize, found: extract::Found<'_>, types: &mut FirstTypes, batch: &mut Batch) {
        if found.is_missing() && self.samples.missing == Missing::Skip {
            return;
        }
        let (mut value, mut status) = (found.value, found.status);
        if let Some(why) = found.why {
            self.note(Some(&format!("{}: {why}", self.samples.wants[sample].places.join(" or "))));
        }
        if self.samples.wants[sample].rules.declared.is_none()
            && !self.samples.is_history
            && let Err(why) = types.hold(tag, value)
        {
            self.note(Some(&format!("{}: {why}", self.samples.wants[sample].places.join(" or "))));
            status = StatusCode::BAD_TYPE_MISMATCH;
            if let Value::Text(_) = value {
                value = Value::Null;
            }
        }
        let time = self.stamp.map_or(batch.read_time, |stamp| stamp.time);
        let doubt = self.stamp.and_then(|stamp| self.samples.clock.as_ref()?.doubt(stamp));
        // History is believed whatever its age; what can't be true is left to the engine's window.
        let is_old = batch.read_time.0.saturating_sub(time.0) > LIVE_MICROS;
        let is_history = doubt.is_none() && (is_old || self.samples.is_history);
        self.note(doubt.as_deref());
        let origin = if is_history { Origin::Backfill } else { Origin::Change };
        batch.rows.push(made(tag, time, value, status, origin, self.stamp.is_some()));
    }
}

fn made(tag: TagId, time: Micros, value: Value, status: StatusCode, origin: Origin, is_device: bool) -> Row {
    let time_source = if is_device { TimeSource::Device } else { TimeSource::Gateway };
    Row { time, server_time: Micros::NONE, value, tag, status, flags: Flags::new(origin, time_source) }
}
