//! Events and alarms as documents: the fields asked for, by their names.
//!
//! `{"Time": "2026-11-21T09:00:00Z", "SourceName": "Press 1", "Severity": 500}`: times are RFC 3339, ids their standard text, bytes base64.

use crate::compiled::{CompiledSource, Events};
use crate::filter::EventField;
use crate::readings::FIRST_EVENT;
use crate::resolve::Resolver;
use crate::session::{Permission, Refused, Session, attribute_of};
use crate::shared::Shared;
use crate::subscribe::Subscription;
use crate::wire::{Reader, Undecodable, builtin, micros};
use millrace_config::Reason;
use millrace_contract::Status;
use millrace_kit::trigger::document_key;
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, json};
use opcua::types::{
    AttributeId, BinaryDecodable, ByteStringBody, CallMethodRequest, ContextOwned, EventFilter, EventFilterResult, ExtensionObject,
    MethodId, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ObjectId, ObjectTypeId, StatusCode, Variant,
};

/// The client handle of what says that the address space changed. Not the highest there is: to some servers that is none.
const MODEL_HANDLE: u32 = 0xC000_0000;

/// Fields that every event is asked for, before those of the YAML.
const HIDDEN: [&str; 2] = ["Time", "EventType"];

/// BaseModelChangeEventType, GeneralModelChangeEventType.
const MODEL_EVENTS: [u32; 2] = [2132, 2133];

/// A refresh begins, ends, and is needed: not news about the plant.
const REFRESH_EVENTS: [u32; 3] = [2787, 2788, 2789];

/// What is asked of the server for the events at `index`. Errors: a name the server does not know.
fn request(index: usize, events: &Events, node: NodeId, session: &Session) -> Result<MonitoredItemCreateRequest, Reason> {
    let step = |name: &str| crate::address::Step { namespace: None, name: name.to_owned() };
    let mut fields: Vec<EventField> = HIDDEN.iter().map(|name| EventField { name: (*name).into(), path: vec![step(name)] }).collect();
    fields.extend(events.fields.iter().cloned());
    let filter = events.condition.filter(&fields, &session.space())?;
    Ok(monitor(node, FIRST_EVENT + index as u32, filter, 10_000))
}

/// Watches these notifiers, by their index, and says of each how it is: what can't be watched is tried again when its time comes.
pub async fn watch(shared: &Shared, session: &Session, subscription: &mut Subscription, notifiers: &[usize]) -> Result<(), Refused> {
    let job = &shared.job;
    let from: Vec<_> = notifiers.iter().map(|index| &job.events[*index].from).collect();
    let nodes = Resolver::default().resolve(session, &from).await?;
    let mut is_new = false;
    for (index, node) in notifiers.iter().copied().zip(nodes) {
        let watched = &job.events[index];
        let (is_monitored, why) =
            match node.map_err(|_| Reason::new("the node is not there")).and_then(|node| request(index, watched, node, session)) {
                Err(why) => (false, Some(why.into())),
                Ok(request) => match subscription.monitor_events(session, request).await? {
                    made if made.status_code.is_bad() => (false, Some(made.status_code.to_string())),
                    made => (true, undone(&watched.fields, &made.filter_result)),
                },
            };
        subscription.hears(index, is_monitored);
        is_new |= is_monitored;
        let name = &job.model.routes[watched.route].name;
        shared.io.status(&watched.part, why.map_or(Status::Running, |why| Status::Degraded(format!("{name}: {why}"))));
    }
    match Permission::of(job.writes_allowed) {
        Some(permission) if is_new => refresh(permission, session, subscription.id).await,
        _ => Ok(()),
    }
}

/// What is asked of the server to hear that its address space changed, the better request first; the last is for those that filter nothing.
fn model_requests() -> [MonitoredItemCreateRequest; 3] {
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

/// What the server does not do of what it was asked for and took; `None` where it says nothing.
fn undone(fields: &[EventField], result: &ExtensionObject) -> Option<String> {
    let body = result.inner_as::<ByteStringBody>()?;
    let context = ContextOwned::default();
    let mut bytes = body.raw_body().as_ref();
    let result = EventFilterResult::decode(&mut bytes, &context.context()).ok()?;
    // Such an element lets nothing through, and the item is said to be good all the same.
    let elements = result.where_clause_result.element_results.unwrap_or_default();
    let mut wrong =
        elements.iter().flat_map(|element| std::iter::once(&element.status_code).chain(element.operand_status_codes.iter().flatten()));
    if let Some(status) = wrong.find(|status| status.is_bad()) {
        return Some(format!("the server does not filter events like this: {status}"));
    }
    let clauses = result.select_clause_results?;
    let fields = fields.iter().zip(clauses.iter().skip(HIDDEN.len()));
    let unknown: Vec<&str> = fields.filter(|(_, status)| status.is_bad()).map(|(field, _)| &*field.name).collect();
    (!unknown.is_empty()).then(|| format!("the server does not know {}", unknown.join(", ")))
}

/// Listens for changes of the address space, in the best of the ways that the server takes.
pub async fn watch_model(session: &Session, subscription: &mut Subscription) -> Result<(), Refused> {
    for request in model_requests() {
        let made = subscription.monitor_events(session, request).await?;
        let why = match made.status_code {
            status if status.is_bad() => status.to_string(),
            _ => match undone(&[], &made.filter_result) {
                None => return Ok(()),
                Some(why) => {
                    subscription.unmonitor(session, &[made.monitored_item_id]).await?;
                    why
                }
            },
        };
        tracing::debug!(part = %subscription.part, why, "the server does not say so when its nodes change");
    }
    Ok(())
}

/// Asks for the conditions as they are now; servers without alarms say no, which changes nothing. It is a Call, if a harmless one: where writes are
/// forbidden none leaves, and a condition is heard of when it changes.
async fn refresh(permission: Permission, session: &Session, subscription: u32) -> Result<(), Refused> {
    let call = CallMethodRequest {
        object_id: ObjectTypeId::ConditionType.into(),
        method_id: MethodId::ConditionType_ConditionRefresh.into(),
        input_arguments: Some(vec![Variant::UInt32(subscription)]),
    };
    let status = match session.methods(permission, &[call]).await {
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
pub fn documents(job: &CompiledSource, body: &[u8], batch: &mut Batch) -> Result<Heard, Undecodable> {
    let mut reader = Reader::new(body);
    let mut heard = Heard::default();
    for _ in 0..reader.length(8)?.unwrap_or(0) {
        let handle = reader.u32()?;
        let count = reader.length(1)?.unwrap_or(0);
        let events = handle.checked_sub(FIRST_EVENT).and_then(|index| job.events.get(index as usize));
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
            document_key(template, value, batch)
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
