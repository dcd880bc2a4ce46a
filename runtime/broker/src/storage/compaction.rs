//! Retention and compaction of a partition: what goes because it is old, or too much, or said again later.
//!
//! Compaction keeps, of each key, the record with the highest offset among the segments that nothing is appended to any more. Offsets never change. A
//! pass reads what came since the last one, remembers the newest offset of each key (bounded: [`MOST_KEYS`] in one pass), then writes the
//! segments anew without what is outdated.
//!
//! - A tombstone stays for `delete.retention.ms` after the first pass that covered it, so that a reader who began before sees it.
//! - Records of aborted transactions go. A marker goes as late as a tombstone, and not before the records of its transaction.
//! - Nothing at or above the last stable offset is touched.

use std::collections::{HashMap, HashSet};

use millrace_log::{Batch, ReadBuf, Rewrite, SegmentInfo, StoreError};
use ring::digest;

use crate::storage::batch::Header;
use crate::storage::partition::Partition;
use crate::storage::records::{Record, Records, repack, unpack};
use crate::storage::topic_config::TopicConfig;

/// Keys remembered in one pass; the rest comes in the next.
const MOST_KEYS: usize = 200_000;
const READ: usize = 256 << 10;

/// The newest offset of each key.
#[derive(Default)]
struct Latest(HashMap<[u8; 16], u64>);

impl Latest {
    fn hash(key: &[u8]) -> [u8; 16] {
        digest::digest(&digest::SHA256, key).as_ref()[..16].try_into().expect("a digest has 32 bytes")
    }

    fn learn(&mut self, header: &Header, records: &[u8]) {
        for record in Records(records) {
            if let Some(key) = record.key {
                self.0.insert(Self::hash(key), offset(header, &record));
            }
        }
    }

    fn outdates(&self, header: &Header, record: &Record<'_>) -> bool {
        let latest = record.key.and_then(|key| self.0.get(&Self::hash(key)));
        latest.is_some_and(|latest| offset(header, record) < *latest)
    }
}

fn offset(header: &Header, record: &Record<'_>) -> u64 {
    (header.base_offset + i64::from(record.offset_delta)) as u64
}

/// One pass over a partition.
struct Pass<'a> {
    partition: &'a Partition,
    latest: Latest,
    /// What is at or above was not read.
    until: u64,
    purge_below: u64,
    /// Producers with records since their last marker.
    with_records: HashSet<i64>,
}

impl Pass<'_> {
    fn decide(&mut self, batch: &Batch<'_>) -> Rewrite {
        let Some(header) = Header::read(batch.payload) else { return Rewrite::Keep };
        if header.is_control() {
            let needed = self.with_records.remove(&header.producer_id);
            return if needed || batch.first >= self.purge_below { Rewrite::Keep } else { Rewrite::Drop };
        }
        let decided = self.decide_data(&header, batch);
        if header.is_transactional() && decided != Rewrite::Drop {
            self.with_records.insert(header.producer_id);
        }
        decided
    }

    fn decide_data(&self, header: &Header, batch: &Batch<'_>) -> Rewrite {
        if batch.first >= self.until {
            return Rewrite::Keep;
        }
        if header.is_transactional() && self.partition.was_aborted(header.producer_id, batch.first) {
            return Rewrite::Drop;
        }
        let Some(unpacked) = unpack(header, batch.payload) else { return Rewrite::Keep };
        let (mut kept, mut all) = (Vec::new(), 0);
        for record in Records(&unpacked) {
            all += 1;
            let gone = self.latest.outdates(header, &record) || record.is_tombstone && offset(header, &record) < self.purge_below;
            if !gone {
                kept.push(record);
            }
        }
        if kept.len() == all || all as i32 != header.records {
            return Rewrite::Keep;
        }
        if kept.is_empty() {
            return Rewrite::Drop;
        }
        match repack(batch.payload, header, &kept) {
            Ok(payload) => Rewrite::Replace { records: kept.len() as u32, payload },
            Err(_) => Rewrite::Keep,
        }
    }
}

impl Partition {
    /// Lets go of segments that are older than the topic keeps them, or more than it keeps.
    pub fn retain(&self, config: &TopicConfig, now: i64) -> Result<(), StoreError> {
        if !config.delete {
            return Ok(());
        }
        let (start, segments) = (self.start(), self.segments());
        let mut cut = start;
        if let Some(retention) = config.retention {
            for segment in segments.iter().filter(|segment| segment.next > start) {
                let newest = self.newest_time_in(segment.base, segment.next);
                if newest.is_none_or(|newest| i128::from(now) - i128::from(newest) <= retention.as_millis() as i128) {
                    break;
                }
                cut = segment.next;
            }
        }
        if let Some(limit) = config.retention_bytes {
            let kept: Vec<&SegmentInfo> = segments.iter().filter(|segment| segment.next > cut).collect();
            let mut bytes: u64 = kept.iter().map(|segment| segment.bytes).sum();
            for segment in kept.iter().take(kept.len().saturating_sub(1)) {
                if bytes - segment.bytes < limit {
                    break;
                }
                bytes -= segment.bytes;
                cut = segment.next;
            }
        }
        cut = cut.min(self.stable());
        if cut > start { self.delete_below(cut) } else { Ok(()) }
    }

    /// Compacts what is worth it.
    pub fn compact(&self, config: &TopicConfig, now: i64) -> Result<(), StoreError> {
        if !config.compact {
            return Ok(());
        }
        let age = |micros: i64| now.saturating_sub(micros / 1_000);
        let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let all = self.segments();
        let stable = self.stable();
        // The last one may hold the newest batch, which the log keeps as it is.
        let settled = |segment: &&SegmentInfo| {
            segment.sealed && segment.next <= stable && age(segment.last_append) >= millis(config.min_compaction_lag)
        };
        let segments: Vec<SegmentInfo> = all[..all.len().saturating_sub(1)].iter().take_while(settled).copied().collect();
        let cleaned = self.cleaned();
        let (dirty, clean): (Vec<&SegmentInfo>, Vec<_>) = segments.iter().partition(|segment| segment.next > cleaned.until);
        let bytes = |segments: &[&SegmentInfo]| segments.iter().map(|segment| segment.bytes).sum::<u64>() as f64;
        let ratio = bytes(&dirty) / (bytes(&dirty) + bytes(&clean)).max(1.0);
        let overdue = dirty.first().is_some_and(|first| age(first.first_append) > millis(config.max_compaction_lag));
        let purge_below = cleaned.purge_below(millis(config.delete_retention), now);
        let is_worth_it = !dirty.is_empty() && (ratio >= config.min_cleanable_ratio || overdue) || purge_below > cleaned.purged;
        let Some(end) = segments.last().map(|last| last.next).filter(|_| is_worth_it) else { return Ok(()) };
        let mut pass = Pass { partition: self, latest: Latest::default(), until: end, purge_below, with_records: HashSet::new() };
        self.learn_keys(cleaned.until.max(self.start()), &mut pass)?;
        let mut freed = 0;
        for segment in &segments {
            freed += self.rewrite(segment.base, &mut |batch| pass.decide(&batch))?;
        }
        if freed > 0 {
            tracing::debug!(topic = %self.topic, partition = self.index, freed, "compacted");
        }
        let mut cleaned = cleaned;
        cleaned.passed(pass.until, purge_below, now);
        self.set_cleaned(cleaned);
        Ok(())
    }

    /// Reads the keys from an offset on, to the end of the pass or as many as may be remembered.
    fn learn_keys(&self, mut from: u64, pass: &mut Pass<'_>) -> Result<(), StoreError> {
        let mut buf = ReadBuf::new();
        while from < pass.until && self.read_batches(from, READ, &mut buf)? > 0 {
            for batch in buf.batches().filter(|batch| batch.first < pass.until) {
                if pass.latest.0.len() >= MOST_KEYS {
                    pass.until = batch.first;
                    return Ok(());
                }
                let header = Header::read(batch.payload).filter(|header| {
                    let aborted = header.is_transactional() && self.was_aborted(header.producer_id, batch.first);
                    !header.is_control() && !aborted
                });
                if let Some((header, records)) = header.and_then(|header| Some((header, unpack(&header, batch.payload)?))) {
                    pass.latest.learn(&header, &records);
                }
            }
            from = buf.next().unwrap_or(pass.until);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::batch::{self, HEADER, sample};
    use millrace_log::{Store, StoreOptions};
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// A batch of keys and values; no value is a tombstone.
    fn batch(records: &[(&str, Option<&str>)], producer: (i64, i16, i32), transactional: bool) -> Vec<u8> {
        let mut out = sample(records.len() as i32, producer, transactional)[..HEADER].to_vec();
        for (i, (key, value)) in records.iter().enumerate() {
            let mut body = vec![0, 0, 2 * i as u8, 2 * key.len() as u8];
            body.extend(key.as_bytes());
            body.push(value.map_or(1, |value| 2 * value.len() as u8));
            body.extend(value.unwrap_or_default().as_bytes());
            body.push(0);
            out.push(2 * body.len() as u8);
            out.extend(body);
        }
        batch::seal(&mut out);
        out
    }

    struct Bench {
        partition: Partition,
        config: TopicConfig,
        _store: Store,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(given: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            let given: BTreeMap<_, _> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let config = TopicConfig::new(given).unwrap();
            let partition = Partition::open(&store, "t".into(), 0, &config, Duration::from_millis(200)).unwrap();
            Self { partition, config, _store: store, _dir: dir }
        }

        fn compacting() -> Self {
            Self::new(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("delete.retention.ms", "1000")])
        }

        fn append(&self, batch: &[u8]) {
            let header = Header::check(batch).unwrap();
            self.partition.append(&header, batch, &self.config, 10, || Ok(())).unwrap();
        }

        /// Begins a new segment, so that what was appended before can be compacted.
        fn roll(&self) {
            self.partition.roll_if_old(Duration::ZERO, i64::MAX / 2);
        }

        fn compact(&self, now: i64) {
            self.partition.sync_for_tests();
            self.partition.compact(&self.config, crate::clock::now() + now).unwrap();
        }

        /// Offset and key of every record that a reader sees, and the offsets of markers.
        fn left(&self) -> (Vec<(u64, String)>, Vec<u64>) {
            let (mut records, mut markers, mut from, mut buf) = (Vec::new(), Vec::new(), 0, ReadBuf::new());
            while self.partition.read_batches(from, READ, &mut buf).unwrap() > 0 {
                for batch in buf.batches() {
                    let header = Header::read(batch.payload).unwrap();
                    if header.is_control() {
                        markers.push(batch.first);
                        continue;
                    }
                    for record in Records(&unpack(&header, batch.payload).unwrap()) {
                        records.push((offset(&header, &record), String::from_utf8(record.key.unwrap().to_vec()).unwrap()));
                    }
                }
                from = buf.next().unwrap();
            }
            (records, markers)
        }
    }

    fn pairs(list: &[(u64, &str)]) -> Vec<(u64, String)> {
        list.iter().map(|(offset, key)| (*offset, (*key).to_owned())).collect()
    }

    const NOBODY: (i64, i16, i32) = (-1, -1, -1);

    #[test]
    fn of_each_key_the_last_record_stays_where_it_was() {
        let bench = Bench::compacting();
        bench.append(&batch(&[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))], NOBODY, false));
        bench.append(&batch(&[("b", Some("2"))], NOBODY, false));
        bench.roll();
        bench.append(&batch(&[("c", Some("1")), ("a", Some("3"))], NOBODY, false));
        bench.roll();
        bench.append(&batch(&[("c", Some("2"))], NOBODY, false));
        bench.compact(0);
        // The last segment is not touched, and does not outdate anything yet.
        assert_eq!(bench.left().0, pairs(&[(3, "b"), (4, "c"), (5, "a"), (6, "c")]));
        bench.roll();
        bench.append(&batch(&[("d", Some("1"))], NOBODY, false));
        bench.compact(0);
        assert_eq!(bench.left().0, pairs(&[(3, "b"), (5, "a"), (6, "c"), (7, "d")]));
        assert_eq!(bench.partition.end(), 8);
    }

    #[test]
    fn a_tombstone_waits_its_time_and_then_goes() {
        let bench = Bench::compacting();
        bench.append(&batch(&[("a", Some("1")), ("b", Some("1"))], NOBODY, false));
        bench.append(&batch(&[("a", None)], NOBODY, false));
        bench.roll();
        bench.append(&batch(&[("z", Some("1"))], NOBODY, false));
        bench.compact(0);
        assert_eq!(bench.left().0, pairs(&[(1, "b"), (2, "a"), (3, "z")]), "the tombstone is there for who began before");
        bench.compact(900);
        assert_eq!(bench.left().0.len(), 3);
        bench.compact(1_100);
        assert_eq!(bench.left().0, pairs(&[(1, "b"), (3, "z")]));
    }

    #[test]
    fn aborted_records_outdate_nothing_and_go_markers_wait_for_their_records() {
        let bench = Bench::compacting();
        bench.append(&batch(&[("a", Some("kept"))], NOBODY, false));
        bench.append(&batch(&[("a", Some("aborted"))], (7, 0, 0), true));
        bench.partition.mark(7, 0, false, 10).unwrap();
        bench.append(&batch(&[("b", Some("committed"))], (7, 0, 1), true));
        bench.partition.mark(7, 0, true, 10).unwrap();
        bench.roll();
        bench.append(&batch(&[("z", Some("1"))], NOBODY, false));
        bench.compact(0);
        assert_eq!(bench.left(), (pairs(&[(0, "a"), (3, "b"), (5, "z")]), vec![2, 4]));
        bench.compact(1_100);
        assert_eq!(bench.left(), (pairs(&[(0, "a"), (3, "b"), (5, "z")]), vec![4]), "the commit's records are there still");
    }

    #[test]
    fn an_open_transaction_keeps_compaction_below_it() {
        let bench = Bench::compacting();
        bench.append(&batch(&[("a", Some("1"))], NOBODY, false));
        bench.append(&batch(&[("x", Some("1"))], (7, 0, 0), true));
        bench.append(&batch(&[("a", Some("2"))], NOBODY, false));
        bench.roll();
        bench.append(&batch(&[("z", Some("1"))], NOBODY, false));
        bench.compact(0);
        assert_eq!(bench.left().0.len(), 4);
    }

    #[test]
    fn retention_by_size_and_by_time_moves_the_first_offset() {
        let bench = Bench::new(&[("retention.bytes", "300"), ("retention.ms", "5000")]);
        for _ in 0..4 {
            bench.append(&sample(2, NOBODY, false));
            bench.roll();
        }
        bench.append(&sample(2, NOBODY, false));
        bench.partition.sync_for_tests();
        // The records' own time is 1,000 ms after 1970.
        bench.partition.retain(&bench.config, 5_500).unwrap();
        assert!((2..8).contains(&bench.partition.start()), "{}", bench.partition.start());
        bench.partition.retain(&bench.config, 7_000).unwrap();
        assert_eq!((bench.partition.start(), bench.partition.end()), (10, 10));
    }
}
