//! Groups that are read in turn: what is due at one moment in as few requests as the server takes, at its interval or at the clock's full ones.

use crate::answer::Raw;
use crate::readings::Readings;
use crate::session::{Refused, Session, value_of};
use crate::shared::Shared;
use crate::types::Types;
use millrace_contract::Failure;
use millrace_kit::Cycles;
use millrace_schemas::{Batch, Micros, Origin, StatusCode};
use opcua::types::{NodeId, ReadValueId};

/// One group's polling.
#[derive(Clone, Debug)]
pub struct Polling {
    pub group: usize,
    pub handles: Vec<usize>,
}

/// Polls groups for as long as the session lives.
pub async fn poll(shared: &Shared, session: &Session, polls: &[Polling]) -> Failure {
    match polling(shared, session, polls).await {
        Ok(never) => match never {},
        Err(refused) => refused.into(),
    }
}

async fn polling(shared: &Shared, session: &Session, polls: &[Polling]) -> Result<std::convert::Infallible, Refused> {
    let group = |polling: &Polling| &shared.job.polled.groups[polling.group];
    let mut cycles = Cycles::new(polls.iter().map(|polling| (group(polling).every, group(polling).align)));
    loop {
        let due = cycles.due().await;
        due.count_skipped(&shared.io, |index| polls[index].handles.len());
        let handles: Vec<usize> = due.groups.iter().flat_map(|index| &polls[*index].handles).copied().collect();
        read_now(shared, session, &handles, Origin::Poll).await?;
        for index in due.groups {
            shared.io.alive(&group(&polls[index]).part);
        }
    }
}

/// What became of an item: its value, or why there is none.
type Answer<'a> = (usize, Result<&'a [u8], StatusCode>);

/// Reads items and sends what they say.
pub async fn read_now(shared: &Shared, session: &Session, handles: &[usize], origin: Origin) -> Result<(), Refused> {
    let nodes = shared.resolve(session, handles).await?;
    let asked = asked(shared, handles, &nodes);
    let values = session.read_raw(&asked).await?;
    let mut values = values.iter();
    let answers: Vec<Answer<'_>> = handles
        .iter()
        .zip(&nodes)
        .map(|(handle, node)| match node {
            Ok(_) => (*handle, values.next().map(Raw::bytes).ok_or(StatusCode::BAD_NO_DATA)),
            Err(status) => (*handle, Err(*status)),
        })
        .collect();
    let mut batch = shared.io.batch().await;
    let read = loop {
        let types = shared.types();
        let (read, unknown) = rows(&mut shared.readings.lock(), shared, &types, &answers, origin, &mut batch);
        if unknown.is_empty() {
            break read;
        }
        batch.rows.clear();
        batch.heap.clear();
        shared.learn(session, &unknown).await?;
    };
    shared.io.send(batch, &[]).await;
    match origin {
        Origin::Initial => shared.readings.lock().was_read_once(handles),
        _ => shared.readings.lock().was_sent(&read),
    }
    Ok(())
}

/// The requests for those items whose nodes are there.
fn asked(shared: &Shared, handles: &[usize], nodes: &[Result<NodeId, StatusCode>]) -> Vec<ReadValueId> {
    let readings = shared.readings.lock();
    let tags = &shared.job.polled.tags;
    let request = |(handle, node): (&usize, &Result<NodeId, StatusCode>)| {
        let index_range = readings.item(*handle).index.map(|index| tags[index].address.range.clone()).unwrap_or_default();
        Some(ReadValueId { index_range, ..value_of(node.as_ref().ok()?.clone()) })
    };
    handles.iter().zip(nodes).filter_map(request).collect()
}

/// What is read up to where, by handle; and the encodings that the server has to be asked about first.
type Rows = (Vec<(usize, Micros)>, Vec<Vec<u8>>);

/// Appends a row for each answer.
fn rows(readings: &mut Readings, shared: &Shared, types: &Types, answers: &[Answer<'_>], origin: Origin, batch: &mut Batch) -> Rows {
    let (mut read, mut unknown) = (Vec::with_capacity(answers.len()), Vec::new());
    for (handle, value) in answers {
        match value {
            Ok(bytes) => {
                let (tally, time) = readings.answer(*handle, bytes, origin, types, batch, &shared.io);
                unknown.extend(tally.unknown);
                read.push((*handle, time));
            }
            Err(status) => readings.bad(*handle, *status, batch),
        }
    }
    (read, unknown)
}
