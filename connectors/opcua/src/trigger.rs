//! One document per event: when the triggering tag has its edge, the group's tags are read once.
//!
//! The document goes into the batch of the notification that triggered it, so that both are durable or neither: after a crash the notification
//! comes again, and with it the document. What an event is, and how it is acknowledged, is the kit's.

use crate::answer::Raw;
use crate::readings::{document_json, scalar, unknown_encoding};
use crate::session::{Refused, Session, value_of};
use crate::shared::Shared;
use millrace_kit::trigger::{Fired, Settled};
use millrace_schemas::{Batch, StatusCode};
use opcua::types::{NodeId, ReadValueId, StatusCode as UaStatus};
use std::collections::HashMap;

/// Reads the groups of events and adds their documents to the batch.
pub async fn record(shared: &Shared, session: &Session, fired: Vec<Fired>, batch: &mut Batch) -> Result<(), Refused> {
    for mut event in fired {
        let (indices, trigger) = {
            let triggers = shared.triggers.lock();
            (triggers.fields(&event).to_vec(), triggers.tag(&event))
        };
        let values = loop {
            let values = read(shared, session, &indices).await?;
            // The trigger once more, after the data: whether the data is its.
            let mut after = Batch::new();
            let again = read(shared, session, &[trigger]).await?.remove(&trigger);
            let Some(Ok(value)) = again else { break values };
            let (Some(value), StatusCode::GOOD) = scalar(value.bytes(), &mut after) else { break values };
            if shared.triggers.lock().settle(&mut event, value, &after.heap) == Settled::Whole {
                break values;
            }
        };
        let unknown: Vec<_> = values.values().filter_map(|value| unknown_encoding(&shared.types(), value.as_ref().ok()?.bytes())).collect();
        if !unknown.is_empty() {
            shared.learn(session, &unknown).await?;
        }
        let types = shared.types();
        shared.triggers.lock().record(&event, batch, |index, out| match values.get(&index) {
            None => StatusCode::BAD_NO_DATA,
            Some(Err(status)) => *status,
            Some(Ok(value)) => {
                let (_, status) = scalar(value.bytes(), &mut Batch::new());
                if status.is_bad() {
                    return status;
                }
                document_json(&types, value.bytes(), status, out).unwrap_or(StatusCode::BAD_NO_DATA)
            }
        });
    }
    Ok(())
}

/// Values by the indices of their tags.
type Values = HashMap<usize, Result<Raw, StatusCode>>;

async fn read(shared: &Shared, session: &Session, indices: &[usize]) -> Result<Values, Refused> {
    let handles: Vec<(usize, usize)> = {
        let readings = shared.readings.lock();
        indices.iter().filter_map(|index| Some((*index, readings.by_index(*index)?))).collect()
    };
    let nodes = shared.resolve(session, &handles.iter().map(|(_, handle)| *handle).collect::<Vec<_>>()).await?;
    let request = |index: usize, node: &NodeId| ReadValueId {
        index_range: shared.job.polled.tags[index].address.range.clone(),
        ..value_of(node.clone())
    };
    let asked: Vec<_> = handles.iter().zip(&nodes).filter_map(|((index, _), node)| Some(request(*index, node.as_ref().ok()?))).collect();
    let mut values = session.read_raw(&asked).await?.into_iter();
    let value = |((index, _), node): (&(usize, usize), &Result<NodeId, StatusCode>)| {
        let value = match node {
            Ok(_) => values.next().ok_or(StatusCode(UaStatus::BadNoData.bits())),
            Err(status) => Err(*status),
        };
        (*index, value)
    };
    Ok(handles.iter().zip(&nodes).map(value).collect())
}
