//! What is sent for a dead letter: its payload in its topic's format, as it would have gone had it fitted.
//!
//! A payload that lay in its topic, or was on its way there, goes as it is. What a device sent is decoded again by its source's own route. All else
//! that died at the intake is judged again, by the contract of today: a document is converted, a sample is written in the topic's form; what still
//! does not fit is refused with the reason.

use super::DeadLetter;
use super::again::{Decoded, Sources};
use crate::frame::RESERVED;
use crate::intake::encode;
use crate::registrar::register;
use crate::topics::{Format, SCHEMA_HEADER, Topic, Topics};
use millrace_config::Reason;
use millrace_registry::{Client, SchemaId};
use millrace_schemas::contract::Work;
use millrace_schemas::{Batch, Micros, SampleMeta, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Prepares letters for their topics.
pub struct Prepare {
    topics: Topics,
    /// Topics that hold samples.
    samples: HashSet<Arc<str>>,
    sources: Option<Sources>,
    registry: Option<Arc<Client>>,
    /// Not a handle: that of a single-threaded runtime would wait for a registry whose answers nobody reads.
    tokio: Runtime,
    ids: HashMap<Arc<str>, SchemaId>,
    work: Work,
}

impl Prepare {
    /// `samples`: the topics that hold samples. `registry`: values of topics with a schema go out with its id.
    pub fn new(topics: Topics, samples: HashSet<Arc<str>>, registry: Option<Arc<Client>>, tokio: Runtime) -> Self {
        Self { topics, samples, sources: None, registry, tokio, ids: HashMap::new(), work: Work::default() }
    }

    /// With sources that decode again what their devices sent.
    #[must_use]
    pub fn with_sources(self, sources: Sources) -> Self {
        Self { sources: Some(sources), ..self }
    }

    /// Makes of a letter what its topic holds: records with the topics where they go. Blocks while the registry is asked.
    ///
    /// Errors: why it can't be sent.
    pub fn prepare(&mut self, name: &str, mut letter: DeadLetter) -> Result<Vec<(String, DeadLetter)>, Reason> {
        if letter.value.is_none() || letter.is_encoded() {
            return Ok(vec![(name.to_owned(), letter)]);
        }
        match self.sources.as_ref().and_then(|sources| sources.decode(&letter, &self.topics)).transpose()? {
            None => {}
            Some(Decoded::Document(key, payload)) => {
                letter.key = key.or(letter.key);
                letter.value = Some(payload);
            }
            Some(Decoded::Samples(samples)) => {
                let ready = |(topic, mut sample): (Arc<Topic>, DeadLetter)| {
                    let value = sample.value.take().unwrap_or_default();
                    self.finish(&topic, &mut sample, |out| {
                        out.extend_from_slice(&value);
                        Ok(())
                    })?;
                    Ok((topic.name.to_string(), sample))
                };
                return samples.into_iter().map(ready).collect();
            }
        }
        self.judge(name, &mut letter)?;
        Ok(vec![(name.to_owned(), letter)])
    }

    fn judge(&mut self, topic: &str, letter: &mut DeadLetter) -> Result<(), Reason> {
        let topic = self.topics.get(topic);
        let payload = letter.value.take().unwrap_or_default();
        if topic.mark == 0 {
            // Without a schema documents go as they came; what a device said is no sample.
            if self.samples.contains(&topic.name) {
                sample(topic.format, &payload, &mut Vec::new())?;
            }
            letter.value = Some(payload);
            return Ok(());
        }
        let mut work = std::mem::take(&mut self.work);
        let done = self.finish(&topic, letter, |out| match &topic.contract {
            Some(contract) => contract.fit(&payload, out, &mut work).map_err(|misfit| format!("still does not fit: {misfit}").into()),
            None => sample(topic.format, &payload, out),
        });
        self.work = work;
        done
    }

    /// Gives the letter what `write` writes in the topic's format, behind the registry's id or beside the schema's mark.
    fn finish(
        &mut self,
        topic: &Topic,
        letter: &mut DeadLetter,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        let is_registered = topic.schema.is_some() && self.registry.is_some();
        // Room for the id, which is asked for only once the payload fits.
        let mut out = vec![0; if is_registered { RESERVED } else { 0 }];
        write(&mut out)?;
        if is_registered {
            out[..RESERVED].copy_from_slice(&self.id(topic)?.prefix());
        } else {
            let indexes = topic.schema.as_ref().map_or(0, |schema| schema.indexes.len());
            out.drain(..indexes);
            if topic.format != Format::Json {
                let mark = if topic.contract.is_some() { topic.mark } else { topic.sample_mark() };
                letter.headers.push((SCHEMA_HEADER.into(), Some(format!("{mark:016x}").into_bytes())));
            }
        }
        letter.value = Some(out);
        Ok(())
    }

    fn id(&mut self, topic: &Topic) -> Result<SchemaId, Reason> {
        if let Some(id) = self.ids.get(&topic.name) {
            return Ok(*id);
        }
        let (Some(client), Some(schema)) = (&self.registry, &topic.schema) else { return Err("the topic has no schema".into()) };
        let subject = topic.subject.of(&topic.name, &schema.name);
        let id = self.tokio.block_on(register(client, &subject, schema)).map_err(|e| e.to_string())?;
        self.ids.insert(topic.name.clone(), id);
        Ok(id)
    }
}

/// A sample died as JSON, whatever its topic's form.
fn sample(format: Format, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut batch = Batch::new();
    const NONE: &str = "the topic holds samples, and this is what a device sent: correct the route, and let the device send it again";
    json::decode(payload, &mut batch).map_err(|error| format!("{NONE} ({error})"))?;
    let Some(columns) = &batch.decoded else { return Err(NONE.to_owned().into()) };
    let meta = SampleMeta {
        tag: batch.text_of(columns.tag_path[0]),
        def: columns.def[0],
        read_time: columns.read_time[0],
        device_time: Some(columns.device_time[0]).filter(|time| *time != Micros::NONE),
        source: batch.text_of(columns.source[0]),
        seq: columns.seq[0],
    };
    encode(format, &meta, &batch.rows[0], &batch.heap, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::contract::{Contract, Kind, Schema};

    fn letter(value: &[u8], headers: &[&str]) -> DeadLetter {
        DeadLetter {
            topic: "t.dead".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: Some(value.to_vec()),
            headers: headers.iter().map(|name| ((*name).to_owned(), Some(b"true".to_vec()))).collect(),
        }
    }

    #[test]
    fn what_died_at_the_intake_is_converted_and_what_was_sent_before_goes_as_it_is() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let contract = Contract::compile(Kind::Protobuf, "syntax = \"proto3\"; message A { string x = 1; }", None, &mut |_| None).unwrap();
        let documents = Topic { format: Format::Protobuf, ..Topic::undeclared("documents") }.with_schema(contract.schema().clone());
        let documents = Topic { contract: Some(Arc::new(contract)), ..documents };
        let samples = Topic { format: Format::Avro, ..Topic::undeclared("samples") }.with_schema(Schema::telemetry(Kind::Avro));
        let mut prepare = Prepare::new(Topics::new([documents, samples]), HashSet::from(["plain".into()]), None, tokio);

        let mut value = |topic: &str, letter: DeadLetter| prepare.prepare(topic, letter).map(|mut records| records.remove(0).1);
        let converted = value("documents", letter(br#"{"x":"a"}"#, &[])).unwrap();
        assert_eq!(converted.value, Some(vec![0x0A, 1, b'a']));
        assert!(converted.header(SCHEMA_HEADER).is_some_and(|mark| mark.len() == 16), "{converted:?}");
        assert!(value("documents", letter(br#"{"y":1}"#, &[])).unwrap_err().contains("key y is not in message A"));
        let sent = letter(&[0x0A, 1, b'b'], &[super::super::ENCODED]);
        assert_eq!(value("documents", sent.clone()), Ok(sent));
        let other = letter(b"as it is", &[]);
        assert_eq!(value("other", other.clone()), Ok(other));

        let json = br#"{"tag":"a/b/c","time":1,"read_time":2,"source":"a/b/s","seq":3,"value":5}"#;
        let sample = value("samples", letter(json, &[])).unwrap();
        let mut batch = Batch::new();
        millrace_schemas::avro::decode(&sample.value.unwrap(), &mut batch).unwrap();
        assert_eq!(batch.rows[0].value, millrace_schemas::Value::Int(5));
        assert!(value("samples", letter(b"{", &[])).unwrap_err().contains("what a device sent"));
        assert!(value("plain", letter(b"ON", &[])).unwrap_err().contains("what a device sent"));
        assert_eq!(value("plain", letter(json, &[])).unwrap().value.as_deref(), Some(&json[..]));
    }
}
