//! What was missed, read back from the server's history: live values first, at a bounded rate, without repeats at the seams.
//!
//! ```text
//! live ──────────┤ last        first ├────────── live
//!                  └── read back ──┘              for each tag by its own source times, without last and first themselves
//! ```
//!
//! A clock of a device may stand for many values: of those with the time of `last`, or `first`, as many are left out as came by themselves.
//!
//! A gap is opened for the tags of a subscription that could not be gone on with, or whose messages are gone; for each tag behind the last value that
//! came of it, in this process or an earlier one (`watermarks.rs`). Each open gap is a position of its tag, `from until`, so that it is filled after a
//! crash, too; it moves with what is read. Until a live value shows where the gap ends, `until` is 0.

use crate::edge::Edge;
use crate::readings::Readings;
use crate::session::{Refused, Session};
use crate::shared::Shared;
use crate::subscribe::Subscription;
use millrace_contract::{Failure, Status};
use millrace_schemas::Micros;
use opcua::core::ResponseMessage;
use opcua::types::{
    AttributeId, ByteString, ByteStringBody, DateTime, ExtensionObject, HistoryReadRequest, HistoryReadResult, HistoryReadValueId, NodeId,
    ReadRawModifiedDetails, StatusCode, TimestampsToReturn, Variant,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The key of a gap's position: this, and the tag's path.
pub const GAP: &str = "gap/";
/// Values of one answer.
const VALUES_PER_ANSWER: u32 = 1_000;
/// Live values come first: a gap is filled only after this.
const LIVE_FIRST: Duration = Duration::from_secs(2);
/// How long a server may take for the first live value behind a gap: before that it is not known where the gap ends.
const LIVE_WITHIN: Duration = Duration::from_secs(15);
/// A gap that the server could not fill is tried again after this, or with the next one.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Answers without a value, or with the continuation of the one before, after which a history is left for later.
const IDLE_MOST: u32 = 5;
/// A pause after such an answer, to spare the server.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// The bit of AccessLevel that says a node has a history.
const HISTORY_READ: u8 = 0x04;

/// Tags and where they begin to miss something.
#[derive(Debug, Default)]
pub struct Gaps {
    open: parking_lot::Mutex<BTreeMap<usize, Edge>>,
    opened: Notify,
}

impl Gaps {
    /// These items may have missed values, each since its own time; none where nothing ever came.
    pub fn open(&self, gaps: impl Iterator<Item = (usize, Edge)>) {
        let mut open = self.open.lock();
        for (handle, from) in gaps.filter(|(_, from)| !from.time.is_none()) {
            let earliest = open.entry(handle).or_insert(from);
            *earliest = (*earliest).min(from);
        }
        drop(open);
        self.opened.notify_one();
    }

    /// They stay open until they are [written down](Self::written): a session may end in between.
    fn all(&self) -> BTreeMap<usize, Edge> {
        self.open.lock().clone()
    }

    fn written(&self, gaps: &BTreeMap<usize, Edge>) {
        self.open.lock().retain(|handle, from| gaps.get(handle) != Some(from));
    }
}

/// A subscription's items missed something: each from its last value on, or from when the last message was published.
pub fn open_gap(shared: &Shared, subscription: &Subscription, gaps: &Gaps) {
    if shared.job.history.is_none() {
        return;
    }
    let mut readings = shared.readings.lock();
    let missed: Vec<_> = subscription.handles.iter().map(|handle| (*handle, readings.begin_gap(*handle, subscription.published))).collect();
    drop(readings);
    tracing::debug!(part = %subscription.part, published = subscription.published.0, ?missed, "a gap begins");
    gaps.open(missed.into_iter());
}

/// Fills gaps for as long as the session lives.
pub async fn fill(shared: &Shared, session: &Session, gaps: &Gaps) -> Failure {
    match filling(shared, session, gaps).await {
        Ok(never) => match never {},
        Err(refused) => refused.into(),
    }
}

async fn filling(shared: &Shared, session: &Session, gaps: &Gaps) -> Result<std::convert::Infallible, Refused> {
    let Some(history) = shared.job.history else { return Ok(std::future::pending().await) };
    let rate = Rate { per_s: history.per_s };
    // By item: where its gap begins. One that opens while another is filled makes it longer, so that the position covers both.
    let mut waiting: BTreeMap<usize, Edge> = BTreeMap::new();
    for (key, position) in shared.io.positions(GAP) {
        let mut readings = shared.readings.lock();
        if let (Some(handle), Some((from, until))) = (readings.by_path(&key[GAP.len()..]), parse(&position)) {
            if readings.seam(handle).is_none() {
                readings.resume_gap(handle, from, until);
            }
            waiting.insert(handle, Edge::at(from));
        }
    }
    let mut later = BTreeMap::new();
    loop {
        if waiting.is_empty() {
            let opened = gaps.opened.notified();
            if later.is_empty() {
                opened.await;
            } else {
                let _ = tokio::time::timeout(AGAIN_AFTER, opened).await;
                waiting.append(&mut later);
            }
        }
        let floor = Edge { time: Micros(Micros::now().0 - history.at_most.as_micros() as i64), count: 0 };
        let opened = gaps.all();
        let mut new = with_history(shared, session, opened.iter().map(|(handle, from)| (*handle, (*from).max(floor))).collect()).await?;
        for (handle, from) in &mut new {
            *from = waiting.get(handle).map_or(*from, |before| (*before).min(*from));
        }
        if !new.is_empty() {
            tracing::info!(tags = new.len(), "values were missed; they are read back from the server's history");
            remember(shared, &new).await;
        }
        gaps.written(&opened);
        waiting.extend(new);
        tokio::time::sleep(LIVE_FIRST).await;
        let deadline = Instant::now() + LIVE_WITHIN;
        while Instant::now() < deadline && waiting.keys().any(|handle| shared.readings.lock().is_silent(*handle)) {
            tokio::time::sleep(LIVE_FIRST / 10).await;
        }
        while let Some((handle, from)) = waiting.pop_first() {
            if let Filled::UpTo(from) = one(shared, session, handle, from, &rate).await? {
                later.insert(handle, from);
            }
        }
    }
}

fn key(readings: &Readings, handle: usize) -> String {
    format!("{GAP}{}", readings.item(handle).def.path)
}

fn position(from: Micros, until: Option<Edge>) -> String {
    format!("{} {}", from.0, until.filter(|until| until.time > from).map_or(0, |until| until.time.0))
}

fn parse(position: &[u8]) -> Option<(Micros, Micros)> {
    let text = std::str::from_utf8(position).ok()?;
    let (from, until) = text.split_once(' ').unwrap_or((text, "0"));
    Some((Micros(from.parse().ok()?), Micros(until.parse().ok()?)))
}

/// Writes the gaps down.
async fn remember(shared: &Shared, gaps: &[(usize, Edge)]) {
    let moved: Vec<(String, String)> = {
        let readings = shared.readings.lock();
        let position = |(handle, from): &(usize, Edge)| (key(&readings, *handle), position(from.time, readings.seam(*handle)));
        gaps.iter().map(position).collect()
    };
    let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, from)| (key.as_str(), from.as_bytes())).collect();
    let batch = shared.io.batch().await;
    shared.io.send(batch, &moved).await;
}

/// Those of the items whose nodes have a history.
async fn with_history(shared: &Shared, session: &Session, gaps: Vec<(usize, Edge)>) -> Result<Vec<(usize, Edge)>, Refused> {
    let handles: Vec<usize> = gaps.iter().map(|(handle, _)| *handle).collect();
    let nodes = shared.resolve(session, &handles).await?;
    let present: Vec<_> = gaps.into_iter().zip(nodes).filter_map(|(gap, node)| node.ok().map(|node| (gap, node))).collect();
    let asked: Vec<_> = present.iter().map(|(_, node)| crate::session::attribute_of(node.clone(), AttributeId::AccessLevel)).collect();
    let levels = session.read(&asked).await?;
    let has = |level: &Option<Variant>| matches!(level, Some(Variant::Byte(level)) if level & HISTORY_READ != 0);
    Ok(present.into_iter().zip(levels).filter(|(_, level)| has(&level.value)).map(|((gap, _), _)| gap).collect())
}

/// How far a gap was filled.
enum Filled {
    Whole,
    /// The server could not go on; it may later.
    UpTo(Edge),
}

/// Statuses that asking again does not change.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadHistoryOperationUnsupported
            | StatusCode::BadHistoryOperationInvalid
            | StatusCode::BadServiceUnsupported
            | StatusCode::BadNotImplemented
            | StatusCode::BadNotSupported
            | StatusCode::BadNodeIdUnknown
            | StatusCode::BadNodeIdInvalid
            | StatusCode::BadNotReadable
            | StatusCode::BadUserAccessDenied
            | StatusCode::BadNoData
    )
}

/// Fills one tag's gap.
async fn one(shared: &Shared, session: &Session, handle: usize, mut from: Edge, rate: &Rate) -> Result<Filled, Refused> {
    let Some(Ok(node)) = shared.resolve(session, &[handle]).await?.pop() else { return Ok(Filled::UpTo(from)) };
    let (key, seam) = {
        let readings = shared.readings.lock();
        (key(&readings, handle), readings.seam(handle).filter(|seam| seam.time > from.time))
    };
    let until = seam.unwrap_or_else(|| Edge { time: Micros::now(), count: 0 });
    let mut point = ByteString::null();
    let mut progress = Progress::default();
    let start = from.time;
    loop {
        let begun = Instant::now();
        // A continuation goes with the question it continues.
        let result = read(session, &node, start, until.time, std::mem::take(&mut point)).await?;
        if result.status_code.is_bad() {
            tracing::warn!(tag = &key[GAP.len()..], status = %result.status_code, "the history of a tag can't be read");
            if !is_final(result.status_code) {
                return Ok(Filled::UpTo(from));
            }
            let batch = shared.io.batch().await;
            shared.io.send(batch, &[(&key, b"")]).await;
            return Ok(Filled::Whole);
        }
        point = result.continuation_point;
        let is_done = point.is_null_or_empty();
        let body = result.history_data.inner_as::<ByteStringBody>().map(|body| body.raw_body().as_ref().to_vec()).unwrap_or_default();
        let mut batch = shared.io.batch().await;
        while !body.is_empty() {
            let types = shared.types();
            let read = shared.readings.lock().history(
                handle,
                (&body, from.time == start, is_done),
                (&mut from, until),
                &types,
                &mut batch,
                &shared.io,
            );
            match read {
                Ok(tally) if !tally.unknown.is_empty() => shared.learn(session, &tally.unknown).await?,
                Ok(_) => break,
                Err(what) => {
                    tracing::error!(tag = &key[GAP.len()..], %what, "a history can't be read");
                    break;
                }
            }
        }
        let values = batch.rows.len();
        let position = if is_done { String::new() } else { position(from.time, seam) };
        shared.io.send(batch, &[(&key, position.as_bytes())]).await;
        if is_done {
            return Ok(Filled::Whole);
        }
        if progress.is_stuck(values, point.as_ref()) {
            let what = format!("the server goes on without values in the history of {}; it is asked again later", &key[GAP.len()..]);
            tracing::warn!(tag = &key[GAP.len()..], "the server's history makes no progress: empty answers that are to be continued");
            shared.io.status("history", Status::Degraded(what));
            release(session, &node, point).await;
            return Ok(Filled::UpTo(from));
        }
        if progress.idle > 0 {
            tokio::time::sleep(IDLE_PAUSE).await;
        }
        rate.rest(values, begun).await;
    }
}

/// Whether the answers of one history lead anywhere.
#[derive(Default)]
struct Progress {
    /// Answers in a row that did not.
    idle: u32,
    last: Vec<u8>,
}

impl Progress {
    /// Takes one answer: how many values it had, and its continuation.
    fn is_stuck(&mut self, values: usize, continuation: &[u8]) -> bool {
        if values == 0 || self.last == continuation && values < VALUES_PER_ANSWER as usize {
            self.idle += 1;
        } else {
            self.idle = 0;
        }
        self.last = continuation.to_vec();
        self.idle >= IDLE_MOST
    }
}

/// Lets the server forget a continuation.
async fn release(session: &Session, node: &NodeId, continuation_point: ByteString) {
    let details = ReadRawModifiedDetails { num_values_per_node: VALUES_PER_ANSWER, ..Default::default() };
    let request = HistoryReadRequest {
        request_header: session.header(),
        history_read_details: ExtensionObject::from_message(details),
        timestamps_to_return: TimestampsToReturn::Both,
        release_continuation_points: true,
        nodes_to_read: Some(vec![HistoryReadValueId { node_id: node.clone(), continuation_point, ..Default::default() }]),
    };
    let _ = session.call("HistoryRead", request).await;
}

struct Rate {
    per_s: f64,
}

impl Rate {
    async fn rest(&self, values: usize, begun: Instant) {
        tokio::time::sleep_until(begun + Duration::from_secs_f64(values as f64 / self.per_s)).await;
    }
}

async fn read(
    session: &Session,
    node: &NodeId,
    from: Micros,
    until: Micros,
    continuation_point: ByteString,
) -> Result<HistoryReadResult, Refused> {
    let details = ReadRawModifiedDetails {
        is_read_modified: false,
        start_time: time(from),
        end_time: time(until),
        num_values_per_node: VALUES_PER_ANSWER,
        return_bounds: false,
    };
    let wanted = HistoryReadValueId { node_id: node.clone(), continuation_point, ..Default::default() };
    let request = HistoryReadRequest {
        request_header: session.header(),
        history_read_details: ExtensionObject::from_message(details),
        timestamps_to_return: TimestampsToReturn::Both,
        release_continuation_points: false,
        nodes_to_read: Some(vec![wanted]),
    };
    match session.call("HistoryRead", request).await {
        Ok(ResponseMessage::HistoryRead(answer)) => Ok(answer.results.unwrap_or_default().pop().unwrap_or_default()),
        Ok(other) => Err(Refused { service: "HistoryRead", error: crate::channel::unexpected(&other) }),
        // No history at all is no reason to end the session.
        Err(refused) if session.channel().closed().is_none() => {
            Ok(HistoryReadResult { status_code: refused.status(), ..Default::default() })
        }
        Err(refused) => Err(refused),
    }
}

fn time(time: Micros) -> DateTime {
    DateTime::from((time.0 + crate::wire::EPOCH_MICROS).max(0) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_makes_no_progress_is_left() {
        let mut progress = Progress::default();
        assert!((0..100).all(|n: u8| !progress.is_stuck(1_000, b"same") && !progress.is_stuck(10, &[n])), "values come");
        assert!((0..IDLE_MOST - 1).all(|_| !progress.is_stuck(0, b"same")));
        assert!(progress.is_stuck(0, b"same"));
        let mut progress = Progress::default();
        assert!((0..100u8).any(|n| progress.is_stuck(0, &[n])), "empty answers lead nowhere, whatever the continuation");
    }

    #[test]
    fn a_gaps_position_says_where_it_ends_once_that_is_known() {
        assert_eq!(parse(position(Micros(5), None).as_bytes()), Some((Micros(5), Micros::NONE)));
        assert_eq!(parse(position(Micros(5), Some(Edge::at(Micros(9)))).as_bytes()), Some((Micros(5), Micros(9))));
        assert_eq!(position(Micros(9), Some(Edge::at(Micros(5)))), "9 0");
        assert_eq!(parse(b"5"), Some((Micros(5), Micros::NONE)));
        assert_eq!(parse(b"rubbish"), None);
    }
}
