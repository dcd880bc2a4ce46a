//! Records of a topic as the sink wants them: raw, as samples, as documents.

use crate::sinks::options::SinkOptions;
use crate::topics::{Format, Topic};
use crate::writer_schemas::WriterSchemas;
use millrace_config::Reason;
use millrace_contract::{Failure, Partition, Record, Records};
use millrace_kafka::Message;
use millrace_registry::SchemaId;
use millrace_schemas::{Batch, Span, avro, json, protobuf, push_header};

/// Copies a message into the records.
pub(super) fn push(records: &mut Records, message: &Message<'_>, options: &SinkOptions) {
    let is_same = |p: &Partition| p.partition == message.partition() && &*p.topic == message.topic();
    // The last one, nearly always; the records of one partition may come in several runs.
    let part = match records.parts.iter().rposition(is_same) {
        Some(index) => index,
        None => {
            let topic =
                records.parts.iter().find(|p| &*p.topic == message.topic()).map_or_else(|| message.topic().into(), |p| p.topic.clone());
            records.parts.push(Partition { topic, partition: message.partition() });
            records.parts.len() - 1
        }
    };
    let heap = &mut records.heap;
    let mut copy = |bytes: &[u8]| {
        let start = heap.len() as u32;
        heap.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    };
    let (key, mut value) = (message.key().map(&mut copy), message.value().map(&mut copy));
    let mut prefix = 0;
    if options.registry.is_some()
        && let (Some(span), Some(bytes)) = (&mut value, message.value())
    {
        prefix = options.known.get(message.topic()).prefix_of(bytes);
        *span = Span { start: span.start + u32::from(prefix), len: span.len - u32::from(prefix) };
    }
    let start = heap.len() as u32;
    for (name, value) in message.headers() {
        push_header(heap, name, value);
    }
    let headers = Span { start, len: heap.len() as u32 - start };
    records.records.push(Record {
        part: part as u32,
        offset: message.offset(),
        timestamp_ms: message.timestamp_ms(),
        key,
        value,
        headers,
        prefix,
    });
}

/// A record's value as JSON, in the heap; one in Avro by the schema it was written with, which without a registry is the topic's. `None`: a tombstone.
/// The inner error says why it can't be read.
///
/// Errors: the registry can't be asked for the schema it was written with.
pub(super) fn as_json(
    topic: &Topic,
    record: &Record,
    heap: &mut Vec<u8>,
    writers: Option<&mut WriterSchemas>,
) -> Result<Result<Option<Span>, Reason>, Failure> {
    let Some(value) = record.value else { return Ok(Ok(None)) };
    if topic.format != Format::Avro {
        return Ok(Ok(Some(value)));
    }
    let start = heap.len() as u32;
    let bytes = value.of(heap).to_vec();
    let prefix = Span { start: value.start - u32::from(record.prefix), len: u32::from(record.prefix) };
    let read = match (SchemaId::split(prefix.of(heap)), writers, &topic.contract) {
        (Some((id, _)), Some(writers), _) => writers.show(id, &bytes, heap)?,
        (_, _, Some(contract)) => match contract.show(&bytes) {
            Some(json) => {
                heap.extend_from_slice(json.as_bytes());
                Ok(())
            }
            None => Err(format!("it is not what the schema {} of topic {} says", contract.schema().name, topic.name).into()),
        },
        _ => Err(format!("it is in Avro, and nothing says by which schema; give topic {} one", topic.name).into()),
    };
    Ok(read.map(|()| Some(Span { start, len: heap.len() as u32 - start })))
}

/// Reads a sample in any of its forms, behind a prefix. JSON can't be confused: Avro begins with the length of the tag, which is not negative, as
/// `{` would be. The inner error says why it is none.
///
/// Errors: the registry can't be asked for the schema it was written with.
pub(crate) fn decode_sample(
    format: Format,
    whole: &[u8],
    prefix: u8,
    writers: Option<&mut WriterSchemas>,
    batch: &mut Batch,
) -> Result<Result<(), Reason>, Failure> {
    let rows = batch.rows.len();
    let value = &whole[usize::from(prefix)..];
    let outcome = match (format, writers.zip(SchemaId::split(whole))) {
        (Format::Protobuf, _) => protobuf::decode(value, batch).map_err(|error| error.to_string()),
        _ if value.first() == Some(&b'{') => json::decode(value, batch).map_err(|error| error.to_string()),
        (_, Some((writers, (id, value)))) => writers.decode(id, value, batch)?.map_err(String::from),
        (_, None) => avro::decode(value, batch).map_err(|error| error.to_string()),
    };
    Ok(outcome.map_err(|error| {
        batch.rows.truncate(rows);
        format!("is no sample: {error}").into()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sample_is_refused_with_the_reason_and_leaves_no_row() {
        let mut batch = Batch::new();
        for bytes in [&b"{\"tag\": 1}"[..], b"", b"\xff\xff", b"hello"] {
            let refused = decode_sample(Format::Avro, bytes, 0, None, &mut batch).unwrap().unwrap_err();
            assert!(refused.starts_with("is no sample: "));
            assert!(batch.rows.is_empty());
        }
    }
}
