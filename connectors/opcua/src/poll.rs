//! Groups that are read in turn: every node of a group with as few requests as the server takes, at its interval or at the clock's full ones.

use crate::readings::Readings;
use crate::session::{Refused, Session, value_of};
use crate::shard::Shared;
use millrace_contract::{Failure, Loss};
use millrace_schemas::{Batch, Origin, StatusCode};
use opcua::types::ReadValueId;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// One group's polling.
#[derive(Clone, Debug)]
pub struct Polling {
    pub group: usize,
    pub handles: Vec<usize>,
}

/// Polls a group for as long as the session lives.
pub async fn poll(shared: &Shared, session: &Session, polling: &Polling) -> Failure {
    match polls(shared, session, polling).await {
        Ok(never) => match never {},
        Err(refused) => refused.into(),
    }
}

async fn polls(shared: &Shared, session: &Session, polling: &Polling) -> Result<std::convert::Infallible, Refused> {
    let group = &shared.job.groups[polling.group];
    let mut next = Instant::now();
    if group.align {
        next += until_full(group.every, SystemTime::now());
    }
    loop {
        tokio::time::sleep_until(next).await;
        cycle(shared, session, polling).await?;
        shared.io.alive(&group.part);
        next += group.every;
        let late = Instant::now().saturating_duration_since(next);
        if !late.is_zero() {
            let skipped = (late.as_nanos() / group.every.as_nanos()) as u32 + 1;
            shared.io.lost(Loss::PollSkipped, u64::from(skipped) * polling.handles.len() as u64);
            next += group.every * skipped;
        }
    }
}

/// How long it is until the clock is at a full interval.
fn until_full(every: Duration, now: SystemTime) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let over = since.as_nanos() % every.as_nanos().max(1);
    Duration::from_nanos((every.as_nanos() - over) as u64)
}

/// Reads a group once.
async fn cycle(shared: &Shared, session: &Session, polling: &Polling) -> Result<(), Refused> {
    read_now(shared, session, &polling.handles, Origin::Poll).await
}

/// Reads items and sends what they say.
pub async fn read_now(shared: &Shared, session: &Session, handles: &[usize], origin: Origin) -> Result<(), Refused> {
    let nodes = shared.resolve(session, handles).await?;
    let mut asked = Vec::with_capacity(handles.len());
    {
        let readings = shared.readings.lock().await;
        for (handle, node) in handles.iter().zip(&nodes) {
            if let Ok(node) = node {
                let range = readings.item(*handle).index.map(|index| shared.job.tags[index].range.clone()).unwrap_or_default();
                asked.push(ReadValueId { index_range: range, ..value_of(node.clone()) });
            }
        }
    }
    let values = session.read(&asked).await?;
    let mut batch = shared.io.batch().await;
    let mut readings = shared.readings.lock().await;
    let mut values = values.iter();
    for (handle, node) in handles.iter().zip(&nodes) {
        match (node, node.as_ref().ok().and_then(|_| values.next())) {
            (Ok(_), Some(value)) => answer(&mut readings, session, shared, *handle, value, origin, &mut batch).await?,
            (Ok(_), None) => readings.bad(*handle, StatusCode::BAD_NO_DATA, &mut batch),
            (Err(status), _) => readings.bad(*handle, *status, &mut batch),
        }
    }
    // Only then may anybody write down that these values were read.
    shared.io.send(batch, &[]).await;
    drop(readings);
    Ok(())
}

async fn answer(
    readings: &mut Readings,
    session: &Session,
    shared: &Shared,
    handle: usize,
    value: &opcua::types::DataValue,
    origin: Origin,
    batch: &mut Batch,
) -> Result<(), Refused> {
    let tally = readings.answer(handle, value, origin, batch, &shared.io);
    if !tally.unknown.is_empty() {
        for encoding in &tally.unknown {
            readings.types.learn_encoding(session, encoding).await?;
        }
        readings.answer(handle, value, origin, batch, &shared.io);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_poll_begins_at_the_clocks_full_interval() {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(until_full(Duration::from_secs(60), at(119_500)), Duration::from_millis(500));
        assert_eq!(until_full(Duration::from_secs(1), at(1_000)), Duration::from_secs(1));
    }
}
