//! `millrace tap`: live records in a person's form. Of a running service over its HTTP, of a topic straight from Kafka.

use crate::ask;
use crate::say::{json_bytes, say, tell, visible, visible_bytes, visible_json};
use anyhow::{Result, bail};
use millrace_config::Problems;
use millrace_engine::topics::{Format, Topic};
use millrace_kafka::{Consumer, Settings, TopicPartition};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// A source, a tag's path or a pattern with `*`, or with --topic a Kafka topic. Everything without it.
    #[arg(default_value = "")]
    name: String,
    #[command(flatten)]
    service: ask::Service,
    /// NAME is a Kafka topic: its new records are read from Kafka.
    #[arg(long)]
    topic: bool,
    /// One JSON document per line instead of a person's form.
    #[arg(long)]
    json: bool,
    /// Ends after so many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub fn tap(options: &Options) -> Result<ExitCode> {
    if options.topic {
        if options.service.config.is_empty() {
            bail!("give the factory's YAML with -c: it says where Kafka is");
        }
        let factory = ask::factory(&options.service.config)?;
        let works = millrace_engine::compile::compile(&factory, crate::catalog::ENTRIES, &mut Problems::new());
        let contract = works.topics.get(&options.name);
        let is_prefixed = factory.schemas.registry.value != "none";
        return of_topic(options, &millrace_engine::cluster::settings(&factory), &contract, is_prefixed);
    }
    let mut left = options.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    options.service.open()?.lines("/tap", &[("name", options.name.clone())], |line| {
        // Nothing is new, and the connection lives.
        if line.is_empty() {
            return true;
        }
        // A note is none of the records that are counted.
        let is_note = line.starts_with("{\"note\"") || line.starts_with("{\"missed\"");
        if is_note && !options.json {
            tell!("{}", visible(line));
        } else {
            say!("{}", if options.json { visible_json(line) } else { visible(&person(line)) });
        }
        left -= u64::from(!is_note);
        left > 0
    })?;
    Ok(ExitCode::SUCCESS)
}

fn of_topic(options: &Options, settings: &Settings, topic: &Topic, is_prefixed: bool) -> Result<ExitCode> {
    let consumer = Consumer::reader(settings, true)?;
    let timeout = Duration::from_secs(10);
    let partitions = consumer.partitions(&options.name, timeout)?;
    let mut parts = Vec::new();
    for partition in 0..partitions {
        let part = TopicPartition::new(options.name.as_str(), i32::try_from(partition)?);
        let (_, end) = consumer.watermarks(&part, timeout)?;
        parts.push((part, Some(end)));
    }
    consumer.take(&parts)?;
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut lines = Vec::new();
        consumer.poll(Duration::from_millis(500), |message| {
            let value = understood(message.value(), topic, is_prefixed);
            lines.push(if options.json {
                let line = serde_json::json!({
                    "partition": message.partition(), "offset": message.offset(), "timestamp": message.timestamp_ms(),
                    "key": message.key().map(json_bytes), "value": value,
                });
                visible_json(&line.to_string())
            } else if value.get("tag").is_some() {
                visible(&person(&value.to_string()))
            } else {
                let key = message.key().map(visible_bytes).unwrap_or_default();
                format!("{} {key} {}", time_of(message.timestamp_ms() * 1000), visible(&value.to_string()))
            });
            lines.len() < 500
        });
        for line in lines.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            say!("{line}");
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A record's value as JSON, by its topic's contract; a registry's prefix is passed over.
pub fn understood(value: Option<&[u8]>, topic: &Topic, is_prefixed: bool) -> Value {
    let Some(bytes) = value else { return Value::Null };
    let bytes = if is_prefixed { &bytes[usize::from(topic.prefix_of(bytes))..] } else { bytes };
    if let Some(shown) = topic.contract.as_ref().and_then(|contract| contract.show(bytes))
        && let Ok(shown) = serde_json::from_str(&shown)
    {
        return shown;
    }
    let mut batch = millrace_schemas::Batch::new();
    if topic.format == Format::Protobuf && topic.contract.is_none() && millrace_schemas::protobuf::decode(bytes, &mut batch).is_ok() {
        return sample(&batch);
    }
    readable(Some(bytes), topic.format == Format::Avro)
}

/// The one sample of a batch, as JSON.
fn sample(batch: &millrace_schemas::Batch) -> Value {
    let Some(columns) = &batch.decoded else { return Value::Null };
    let meta = millrace_schemas::SampleMeta {
        tag: batch.text_of(columns.tag_path[0]),
        def: columns.def[0],
        read_time: columns.read_time[0],
        device_time: Some(columns.device_time[0]).filter(|t| !t.is_none()),
        source: batch.text_of(columns.source[0]),
        seq: columns.seq[0],
    };
    let mut json = Vec::new();
    millrace_schemas::json::encode(&meta, &batch.rows[0], &batch.heap, &mut json);
    serde_json::from_slice(&json).unwrap_or(Value::Null)
}

/// A record's value as JSON: a sample in Avro is decoded, JSON is taken as it is, everything else is shown as text.
pub fn readable(value: Option<&[u8]>, is_avro: bool) -> Value {
    let Some(bytes) = value else { return Value::Null };
    if is_avro {
        let mut batch = millrace_schemas::Batch::new();
        if millrace_schemas::avro::decode(bytes, &mut batch).is_ok() {
            return sample(&batch);
        }
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| json_bytes(bytes))
}

/// `12:01:02.123  acme/plant/body/press-1/force  312.5  good  change`
fn person(line: &str) -> String {
    let Ok(Value::Object(sample)) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let Some(tag) = sample.get("tag").and_then(Value::as_str) else { return line.to_owned() };
    let value = sample.get("value").map_or_else(|| "-".to_owned(), Value::to_string);
    let text = |key: &str| sample.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let status = sample.get("status").and_then(Value::as_u64).filter(|s| *s != 0).map_or(String::new(), |s| format!(" 0x{s:08X}"));
    let time = sample.get("time").and_then(Value::as_i64).map_or_else(String::new, time_of);
    format!("{time}  {tag}  {value}  {}{status}  {}", text("quality"), text("origin"))
}

fn time_of(micros: i64) -> String {
    let of_day = micros.rem_euclid(86_400_000_000);
    let (seconds, millis) = (of_day / 1_000_000, of_day / 1000 % 1000);
    format!("{:02}:{:02}:{:02}.{millis:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_shown_in_one_line() {
        let line = r#"{"tag":"a/b/c","value":1.5,"time":3661000123,"status":1083441152,"quality":"uncertain","origin":"change"}"#;
        assert_eq!(person(line), "01:01:01.000Z  a/b/c  1.5  uncertain 0x40940000  change");
        assert_eq!(person("not json"), "not json");
    }
}
