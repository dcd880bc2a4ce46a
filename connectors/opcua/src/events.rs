//! Events and alarms as documents: the fields asked for, by their names.
//!
//! `{"Time": "2026-11-21T09:00:00Z", "SourceName": "Press 1", "Severity": 500}`: times are RFC 3339, ids their standard text, bytes base64.

use crate::job::{EventField, Events, Job};
use crate::session::{Refused, Session, attribute_of};
use crate::wire::{Reader, Undecodable, builtin, micros};
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, json};
use opcua::types::{
    AttributeId, BinaryDecodable, ByteStringBody, CallMethodRequest, ContextOwned, EventFilter, EventFilterResult, ExtensionObject,
    MethodId, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ObjectId, ObjectTypeId, StatusCode, Variant,
};

/// Client handles of events begin here.
pub const FIRST_HANDLE: u32 = 0x8000_0000;

/// The client handle of what says that the address space changed. Not the highest there is: to some servers that is none.
const MODEL_HANDLE: u32 = 0xC000_0000;

/// Fields that every event is asked for, before those of the YAML.
const HIDDEN: [&str; 2] = ["Time", "EventType"];

/// BaseModelChangeEventType, GeneralModelChangeEventType.
const MODEL_EVENTS: [u32; 2] = [2132, 2133];

/// A refresh begins, ends, and is needed: not news about the plant.
const REFRESH_EVENTS: [u32; 3] = [2787, 2788, 2789];

/// What is asked of the server for the events at `index`. Errors: a name the server does not know.
pub fn request(index: usize, events: &Events, node: NodeId, session: &Session) -> Result<MonitoredItemCreateRequest, String> {
    let step = |name: &str| crate::address::Step { namespace: None, name: name.to_owned() };
    let mut fields: Vec<EventField> = HIDDEN.iter().map(|name| EventField { name: (*name).into(), path: vec![step(name)] }).collect();
    fields.extend(events.fields.iter().cloned());
    let filter = events.condition.filter(&fields, &session.space())?;
    Ok(monitor(node, FIRST_HANDLE + index as u32, filter, 10_000))
}

/// What is asked of the server to hear that its address space changed, the better request first; the last is for those that filter nothing.
pub fn model_requests() -> [MonitoredItemCreateRequest; 3] {
    use ObjectTypeId::{BaseModelChangeEventType, GeneralModelChangeEventType};
    let request = |kinds: &[ObjectTypeId]| monitor(ObjectId::Server.into(), MODEL_HANDLE, crate::filter::of_types(kinds), 100);
    [request(&[GeneralModelChangeEventType, BaseModelChangeEventType]), request(&[GeneralModelChangeEventType]), request(&[])]
}

fn monitor(node: NodeId, client_handle: u32, filter: EventFilter, queue_size: u32) -> MonitoredItemCreateRequest {
    MonitoredItemCreateRequest {
        item_to_monitor: attribute_of(node, AttributeId::EventNotifier),
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle,
            sampling_interval: 0.0,
            filter: ExtensionObject::from_message(filter),
            queue_size,
            discard_oldest: true,
        },
    }
}

/// The fields that the server does not know, of those asked for; `None` where it says nothing.
pub fn unknown_fields(events: &Events, result: &ExtensionObject) -> Option<String> {
    let body = result.inner_as::<ByteStringBody>()?;
    let context = ContextOwned::default();
    let mut bytes = body.raw_body().as_ref();
    let results = EventFilterResult::decode(&mut bytes, &context.context()).ok()?.select_clause_results?;
    let fields = events.fields.iter().zip(results.iter().skip(HIDDEN.len()));
    let unknown: Vec<&str> = fields.filter(|(_, status)| status.is_bad()).map(|(field, _)| &*field.name).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

/// Asks for the conditions as they are now; servers without alarms say no, which changes nothing.
pub async fn refresh(session: &Session, subscription: u32) -> Result<(), Refused> {
    let call = CallMethodRequest {
        object_id: ObjectTypeId::ConditionType.into(),
        method_id: MethodId::ConditionType_ConditionRefresh.into(),
        input_arguments: Some(vec![Variant::UInt32(subscription)]),
    };
    let status = match session.methods(&[call]).await {
        Ok(results) => results.first().map_or(StatusCode::Good, |result| result.status_code),
        // Small servers have no methods at all.
        Err(refused) if session.channel().closed().is_none() => refused.status(),
        Err(refused) => return Err(refused),
    };
    if status.is_bad() {
        tracing::debug!(%status, "the server has no conditions to refresh");
    }
    Ok(())
}

/// Whether the JSON of an event's type is one of the standard's.
fn is_one_of(kind: &[u8], standard: &[u32]) -> bool {
    standard.iter().any(|id| kind == format!("\"i={id}\"").as_bytes())
}

/// What a list of events had in it, besides documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// The address space changed.
    pub model: bool,
    /// Events of handles that nobody gave, or with another number of fields than were asked for: which is which, nobody knows.
    pub strangers: u64,
}

/// Reads an EventNotificationList into documents. After an error, the documents before it stay.
pub fn documents(job: &Job, body: &[u8], batch: &mut Batch) -> Result<Heard, Undecodable> {
    let mut reader = Reader::new(body);
    let mut heard = Heard::default();
    for _ in 0..reader.length(8)?.unwrap_or(0) {
        let handle = reader.u32()?;
        let count = reader.length(1)?.unwrap_or(0);
        let events = handle.checked_sub(FIRST_HANDLE).and_then(|index| job.events.get(index as usize));
        match events {
            Some(events) if count == events.fields.len() + HIDDEN.len() => document(events, &mut reader, batch)?,
            _ if handle == MODEL_HANDLE && count > 0 => {
                let mut kind = Vec::new();
                reader.json(builtin::VARIANT, &mut kind)?;
                for _ in 1..count {
                    reader.skip(builtin::VARIANT)?;
                }
                // A server that does not filter sends all it has; a type of its own may be a subtype.
                heard.model |= is_one_of(&kind, &MODEL_EVENTS) || kind.starts_with(b"\"ns=");
            }
            _ => {
                heard.strangers += 1;
                for _ in 0..count {
                    reader.skip(builtin::VARIANT)?;
                }
            }
        }
    }
    Ok(heard)
}

fn document(events: &Events, reader: &mut Reader<'_>, batch: &mut Batch) -> Result<(), Undecodable> {
    let time = time_of(reader)?.unwrap_or(batch.read_time);
    let mut kind = Vec::new();
    reader.json(builtin::VARIANT, &mut kind)?;
    let is_refresh = is_one_of(&kind, &REFRESH_EVENTS);
    let start = batch.heap.len();
    let mut spans = Vec::with_capacity(events.fields.len());
    batch.heap.push(b'{');
    for (index, field) in events.fields.iter().enumerate() {
        if index > 0 {
            batch.heap.push(b',');
        }
        json::quoted(&field.name, &mut batch.heap);
        batch.heap.push(b':');
        let at = batch.heap.len();
        value(reader, &mut batch.heap)?;
        spans.push(batch.span_from(at));
    }
    batch.heap.push(b'}');
    let payload = batch.span_from(start);
    if is_refresh {
        batch.heap.truncate(start);
        return Ok(());
    }
    let key = match &events.key {
        None => Span::EMPTY,
        Some(template) => {
            let value = |name: &str| events.fields.iter().position(|field| *field.name == *name).map(|index| spans[index]);
            key(template, value, batch)
        }
    };
    batch.docs.push(Doc {
        route: RouteId(events.route as u32),
        time,
        key,
        headers: Span::EMPTY,
        payload: Some(payload),
        topic: Span::EMPTY,
    });
    Ok(())
}

/// Fills a key in with values that stand as JSON in the heap: texts without their quotes.
pub fn key(template: &millrace_kit::Template, value: impl Fn(&str) -> Option<Span>, batch: &mut Batch) -> Span {
    let mut key = Vec::new();
    let filled = template.render(&mut key, |name, out| -> Result<(), std::convert::Infallible> {
        if let Some(span) = value(name) {
            let json = batch.bytes_of(span);
            match serde_json::from_slice::<String>(json) {
                Ok(text) => out.extend_from_slice(text.as_bytes()),
                Err(_) => out.extend_from_slice(json),
            }
        }
        Ok(())
    });
    match filled {
        Ok(()) => batch.push_bytes(&key),
        Err(never) => match never {},
    }
}

/// A time; anything else is none.
fn time_of(reader: &mut Reader<'_>) -> Result<Option<Micros>, Undecodable> {
    let mut ahead = *reader;
    reader.skip(builtin::VARIANT)?;
    Ok(match ahead.u8()? {
        builtin::DATE_TIME => Some(ahead.i64()?).filter(|ticks| *ticks > 0 && *ticks != i64::MAX).map(|ticks| Micros(micros(ticks))),
        _ => None,
    })
}

/// A field's value; a time as people write it.
pub fn value(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Undecodable> {
    let mut ahead = *reader;
    if ahead.u8()? != builtin::DATE_TIME {
        return reader.json(builtin::VARIANT, out);
    }
    let ticks = ahead.i64()?;
    *reader = ahead;
    match jiff::Timestamp::from_microsecond(micros(ticks)) {
        Ok(time) if ticks > 0 => json::quoted(&time.to_string(), out),
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}
