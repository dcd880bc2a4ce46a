//! Warns before a log is full: at a share of its limit, or by the time left at the rate it grows; looks at the disk, too.

use crate::intake::Intake;
use millrace_log::Store;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(5);
/// The rate is taken over this long, so that one burst is no trend.
const WINDOW: Duration = Duration::from_secs(60);

/// Logs that fill, by source, and how soon they are full.
pub type Filling = Arc<parking_lot::Mutex<HashMap<Arc<str>, String>>>;

/// Watches for ever; cancelled by the engine's stop.
///
/// `filling`: those that fill, each with the reason, for who asks.
pub async fn watch(intakes: impl Fn() -> Vec<Arc<Intake>>, store: Store, (share, left): (f64, Duration), filling: Filling) {
    let mut seen: HashMap<Arc<str>, (Instant, u64)> = HashMap::new();
    let mut raised: HashMap<Arc<str>, bool> = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        let room_on_disk = store.free().unwrap_or(u64::MAX);
        for intake in intakes() {
            let source = &intake.source;
            let (used, limit) = intake.log_bytes();
            let room = limit.saturating_sub(used).min(room_on_disk);
            let now = Instant::now();
            let (since, before) = *seen.entry(source.clone()).or_insert((now, used));
            let until_full = time_left(used.saturating_sub(before), now - since, room);
            if now - since >= WINDOW {
                seen.insert(source.clone(), (now, used));
            }
            let is_alarm = is_alarm(used, limit, room, share, until_full, left);
            let words = until_full.map_or("not growing now".to_owned(), |t| format!("full in about {} min", t.as_secs() / 60));
            match is_alarm {
                true => _ = filling.lock().insert(source.clone(), format!("{} % of {limit} bytes, {words}", used * 100 / limit.max(1))),
                false => _ = filling.lock().remove(source),
            }
            let was = raised.insert(source.clone(), is_alarm).unwrap_or(false);
            if is_alarm && !was {
                tracing::warn!(
                    source = %source, used, limit, room_on_disk,
                    "the log fills up: {words}; nothing is lost yet. Is Kafka reachable? See the status of `kafka`"
                );
            } else if was && !is_alarm {
                tracing::info!(source = %source, used, limit, "the log has room again");
            }
        }
    }
}

/// Time until `room` is used up, at the rate of `grown` in `over`; `None` while it does not grow.
fn time_left(grown: u64, over: Duration, room: u64) -> Option<Duration> {
    if grown == 0 || over < Duration::from_secs(1) {
        return None;
    }
    Duration::try_from_secs_f64(room as f64 / (grown as f64 / over.as_secs_f64())).ok()
}

fn is_alarm(used: u64, limit: u64, room: u64, share: f64, until_full: Option<Duration>, left: Duration) -> bool {
    // A log that is nearly empty may grow fast for a moment: no alarm by time below a tenth of its limit, unless the disk is the bound.
    let is_worth_a_look = used * 10 >= limit || room < limit / 10;
    used as f64 >= limit as f64 * share || (is_worth_a_look && until_full.is_some_and(|t| t < left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_looks_at_the_share_and_at_the_time_left() {
        let hour = Duration::from_secs(3600);
        assert_eq!(time_left(0, hour, 100), None);
        assert_eq!(time_left(100, Duration::from_secs(10), 3600), Some(Duration::from_secs(360)));
        assert!(is_alarm(70, 100, 30, 0.7, None, hour));
        assert!(!is_alarm(50, 100, 50, 0.7, None, hour));
        assert!(is_alarm(50, 100, 50, 0.7, Some(hour / 2), hour));
        assert!(!is_alarm(5, 100, 95, 0.7, Some(hour / 2), hour), "a nearly empty log");
        assert!(is_alarm(5, 100, 2, 0.7, Some(hour / 2), hour), "a disk that is nearly full");
    }
}
