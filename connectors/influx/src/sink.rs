//! The session: samples into lines, lines into requests; what the server will never take is named.
//!
//! ```text
//! write    each sample -> a line; a full batch is posted at once, so that nothing more is read from Kafka meanwhile
//! flush    the rest is posted; then everything that was written is durable
//! post     2xx: taken. 400, 413, 422: in pieces, down to the line. 429, 503, 5xx, silence: a failure, and all since the last commit is sent again
//! ```
//!
//! Several samples of a tag at one time: a server that keeps one point per series and time would let the last one replace the others, field by field. From
//! the second on, each other one has the tag `nth`. The same sample again (a heartbeat, a message that was delivered twice) is the same point.

use crate::answer::Answer;
use crate::config::{self, InfluxConfig, Settings};
use crate::line::{Dialect, fields, line, text};
use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_config::{Problems, Reason};
use millrace_contract::{
    Compiled, Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Record, Records, Refused, Role,
    Sink,
};
use millrace_kit::http::{Client, Expect, Method, Request, StatusCode};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of lines in one request; a line alone may be longer.
const BYTES: usize = 4 << 20;
/// Different samples of one tag at one time. More would fill a server with series.
const AT_ONE_TIME: u32 = 64;
/// Tags whose last time is remembered.
const TAGS: usize = 1_000_000;

/// `type: influx`.
pub struct InfluxSink;

impl Plugin for InfluxSink {
    const TYPE: &'static str = "influx";
    const ROLE: Role = Role::Sink;
    type Config = InfluxConfig;

    fn compile(config: InfluxConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let settings = Arc::new(config::compile(&config, context, problems)?);
        Some(Box::new(CompiledSink { settings, topics: context.topics.clone(), model: Model::default() }))
    }
}

struct CompiledSink {
    settings: Arc<Settings>,
    topics: Vec<String>,
    model: Model,
}

impl Compiled for CompiledSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(Instance::new(self.settings.clone())))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce(match self.settings.dialect {
            Dialect::Influx => "what is sent again has the same tag and time, and replaces itself".into(),
            Dialect::Quest => {
                "what is sent again has the same tag and time, and replaces itself where the table has DEDUP UPSERT KEYS(timestamp, tag, nth)"
                    .into()
            }
        })
    }

    fn plan(&self) -> Plan {
        let Settings { server, url, batch, flush_every, gzip, .. } = &*self.settings;
        let compressed = if *gzip { ", compressed" } else { "" };
        let lines = vec![
            format!("writes a line for each sample of {} by POST {url}", self.topics.join(", ")),
            format!("in requests of up to {batch} lines{compressed}, at least every {flush_every:?}"),
            format!("logs in {}", server.login_words()),
        ];
        Plan { endpoint: server.url.to_string(), lines, rate: None }
    }
}

/// A line that waits.
struct Line {
    partition: Partition,
    offset: Offset,
    bytes: Range<usize>,
}

/// The last sample of a tag.
struct Last {
    micros: i64,
    nth: u32,
    /// A hash of its fields.
    said: u64,
}

struct Instance {
    settings: Arc<Settings>,
    client: Option<Client>,
    /// All that waits, and where each line is in it.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Behind the last record taken.
    below: HashMap<Partition, Offset>,
    last: HashMap<Box<str>, Last>,
    fields: Vec<u8>,
    /// The server took a line of this instance, or said that it would.
    is_known: bool,
}

impl Instance {
    fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            client: None,
            text: Vec::new(),
            lines: Vec::new(),
            below: HashMap::new(),
            last: HashMap::new(),
            fields: Vec::new(),
            is_known: false,
        }
    }

    /// Takes one sample. Errors: why no line can hold it.
    fn push(&mut self, records: &Records, index: usize, record: &Record) -> Result<(), Reason> {
        let batch = records.batch.as_ref().filter(|batch| index < batch.rows.len());
        let (batch, columns) = batch.and_then(|batch| Some((batch, batch.decoded.as_ref()?))).ok_or("is no sample")?;
        let row = &batch.rows[index];
        let tag = text(columns.tag_path[index], &batch.heap, "tag")?;
        self.fields.clear();
        fields(row, &batch.heap, self.settings.dialect, &mut self.fields)?;
        let nth = self.nth(tag, row.time.0)?;
        let start = self.text.len();
        line(&self.settings.measurement, tag, nth, &self.fields, row.time.0, self.settings.dialect, &mut self.text)?;
        let partition = records.partition(record).clone();
        self.lines.push(Line { partition, offset: record.offset, bytes: start..self.text.len() });
        Ok(())
    }

    /// Which of the samples of a tag at one time it is.
    fn nth(&mut self, tag: &str, micros: i64) -> Result<u32, Reason> {
        let mut hasher = DefaultHasher::new();
        self.fields.hash(&mut hasher);
        let said = hasher.finish();
        if self.last.len() >= TAGS && !self.last.contains_key(tag) {
            self.last.clear();
        }
        match self.last.entry(tag.into()) {
            Entry::Vacant(entry) => Ok(entry.insert(Last { micros, nth: 1, said }).nth),
            Entry::Occupied(entry) => {
                let last = entry.into_mut();
                if last.micros != micros {
                    *last = Last { micros, nth: 1, said };
                } else if last.said != said {
                    if last.nth >= AT_ONE_TIME {
                        return Err(format!(
                            "more than {AT_ONE_TIME} different samples of tag {tag} have the time {micros}; does its clock stand still?"
                        )
                        .into());
                    }
                    *last = Last { micros, nth: last.nth + 1, said };
                }
                Ok(last.nth)
            }
        }
    }

    /// Posts all that waits. Returns what the server will never take.
    async fn post(&mut self) -> Result<Vec<Refused>, Failure> {
        let lines = std::mem::take(&mut self.lines);
        let text = std::mem::take(&mut self.text);
        let mut refused = Vec::new();
        // The next piece is on top.
        let mut open: Vec<Range<usize>> = self.requests(&lines).into_iter().rev().collect();
        while let Some(piece) = open.pop() {
            let all = &lines[piece.clone()];
            let (Some(first), Some(last)) = (all.first(), all.last()) else { continue };
            let Some(answer) = self.send(&text[first.bytes.start..last.bytes.end]).await? else {
                self.is_known = true;
                continue;
            };
            if all.len() == 1 || answer.drops_all(all.len()) {
                self.ask_whether_lines_are_to_blame().await?;
                let refusal = |line: &Line| Refused {
                    partition: line.partition.clone(),
                    offset: line.offset,
                    reason: format!("the server refuses it: {}", answer.text),
                };
                refused.extend(all.iter().map(refusal));
            } else {
                open.extend(answer.pieces(all.len()).into_iter().rev().map(|part| piece.start + part.start..piece.start + part.end));
            }
        }
        Ok(refused)
    }

    /// The lines of each request.
    fn requests(&self, lines: &[Line]) -> Vec<Range<usize>> {
        let (mut requests, mut from) = (Vec::new(), 0);
        for (index, line) in lines.iter().enumerate() {
            if index > from && (index - from >= self.settings.batch || line.bytes.end - lines[from].bytes.start > BYTES) {
                requests.push(from..index);
                from = index;
            }
        }
        requests.push(from..lines.len());
        requests
    }

    /// Posts a body. `None`: it was taken whole; else what the server says of its lines.
    ///
    /// Errors: it is not the lines' fault.
    async fn send(&mut self, body: &[u8]) -> Result<Option<Answer>, Failure> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(self.settings.server.client()?),
        };
        let request = Request::new(Method::POST, self.settings.url.clone()).expect(Expect::Data);
        let request = match self.settings.gzip {
            true => request.header("content-encoding", "gzip").body("text/plain; charset=utf-8", compressed(body)),
            false => request.body("text/plain; charset=utf-8", body.to_vec()),
        };
        let answer = client.send(&request).await?;
        match answer.status {
            status if status.is_success() => Ok(None),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                let said = Answer::read(&answer.body);
                Ok(Some(Answer { text: format!("{} {}", answer.status.as_u16(), client.redacted(&said.text)), ..said }))
            }
            _ => Err(client.refusal(&answer).into()),
        }
    }

    /// A server that takes nothing at all must not make dead letters of everything: an empty line must be welcome.
    async fn ask_whether_lines_are_to_blame(&mut self) -> Result<(), Failure> {
        if !self.is_known {
            if let Some(answer) = self.send(b"\n").await? {
                let url = &self.settings.server.url;
                return Err(Failure::Blocked(format!("{url} refuses even an empty line, so that nothing can be written: {}", answer.text)));
            }
            self.is_known = true;
        }
        Ok(())
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 4 + 64), Compression::fast());
    gzip.write_all(body).and_then(|()| gzip.finish()).expect("memory takes everything")
}

#[async_trait]
impl Sink for Instance {
    fn input(&self) -> Input {
        Input::Samples
    }

    fn flush_every(&self) -> Duration {
        self.settings.flush_every
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut refused = Vec::new();
        for (index, record) in records.records.iter().enumerate() {
            if let Err(reason) = self.push(records, index, record) {
                refused.push(Refused { partition: records.partition(record).clone(), offset: record.offset, reason: reason.into() });
            }
            self.below.insert(records.partition(record).clone(), record.offset + 1);
        }
        if self.lines.len() >= self.settings.batch || self.text.len() >= BYTES {
            refused.extend(self.post().await?);
        }
        Ok(refused)
    }

    async fn flush(&mut self, _why: Flush) -> Result<Flushed, Failure> {
        let refused = self.post().await?;
        let below = self.below.drain().collect();
        Ok(Flushed { below, refused, ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.below.retain(|part, _| !parts.contains(part));
        Ok(())
    }
}
