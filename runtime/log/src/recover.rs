//! What a log's directory holds after any kind of end.
//!
//! Only the last segment is read; of the others their header and footer. A segment is read too if it has no footer, or if nothing says that it
//! was synced: as much as one sync interval can write.
//!
//! A hole is corruption where the machine has run on since it was written (a process that ends tears nothing but its last write), and where the bytes
//! are *proven* to have been synced: the file is set aside, all that is intact goes on, what is lost is counted. After a power cut, where
//! nothing proves it, the hole is the torn tail, and batches behind it go too: they may rest on the lost one, as a source's position rests on
//! the data before it.
//!
//! A header is a hint: of a segment that has lost its own it is rebuilt from the file's name and the batches (`resync.rs`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use crate::cursors::{CursorFiles, Cursors};
use crate::error::StoreError;
use crate::format::{
    BATCH_HEADER, BadHeader, BatchHeader, FOOTER, Footer, SEGMENT_HEADER, SegmentHeader, VERSION, parse_segment_name, segment_name,
};
use crate::fs::{File, Fs, Mode};
use crate::report::{Quarantined, Recovery};
use crate::resync::rebuild_header;
use crate::scan::{Run, Survey};
use crate::segment::{Segment, rebuild, set_aside};

/// The newest batch of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Newest {
    pub seq: u64,
    pub pos: u64,
}

pub struct Recovered {
    pub segments: VecDeque<Segment>,
    pub next_seq: u64,
    pub end: u64,
    /// Records appended since the log was created.
    pub total: u64,
    pub newest: Option<Newest>,
    pub cursors: Cursors,
    pub cursor_files: CursorFiles,
    pub report: Recovery,
}

/// One segment file before anything is decided.
struct Found {
    base: u64,
    seq: u64,
    path: PathBuf,
    file_len: u64,
    /// `None`: its header is corrupt.
    header: Option<SegmentHeader>,
    /// Its header never came to the disk whole.
    torn: bool,
    rebuilt: Rebuilt,
    /// A later segment holds all of it.
    void: bool,
    kind: Kind,
}

/// How much of a segment's header is its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rebuilt {
    No,
    /// One byte was wrong.
    Whole,
    /// Nothing but the salt is known.
    Salt,
}

enum Kind {
    /// Its footer was read, nothing else.
    Sealed(Footer),
    Read(Survey),
    /// Corrupt header; the survey says nothing.
    Unreadable,
}

/// Opens a log's directory and leaves it in order: no torn tail, no hole, every segment but the last with a footer, all of it synced.
///
/// `power_cut`: what was not synced may not have come to the disk, in any part.
pub fn recover(fs: &dyn Fs, dir: &Path, start: u64, power_cut: bool) -> Result<Recovered, StoreError> {
    let mut report = Recovery { records_lost: Some(0), ..Recovery::default() };
    let (cursor_files, cursors, lost_cursors) = CursorFiles::load(fs, dir)?;
    if let Some(path) = lost_cursors {
        report.quarantined.push(Quarantined { path, reason: "the cursors are corrupt".to_owned(), bytes: 0, records: Some(0) });
    }
    let mut found = list(fs, dir)?;
    report.created = found.is_empty() && cursors == Cursors::default();
    let next_seq = found.last().map_or(1, |last| last.seq + 1);
    let proven = read_what_must_be(fs, &mut found, cursors.synced, &mut report)?;
    complete_headers(&mut found, cursors.front);

    let claimed = (cursors.total > 0 && cursors.synced == proven).then_some(cursors.total);
    let mut state = Walk {
        fs,
        dir,
        power_cut,
        proven,
        claimed,
        end: None,
        total: 0,
        segments: VecDeque::new(),
        unproven: HashMap::new(),
        unsynced: false,
        report,
    };
    let (void, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|file| file.void);
    for file in void {
        state.remove(&file)?;
    }
    state.lose_what_is_missing_at_the_front(&found, &cursors);
    let mut files = found.into_iter().peekable();
    while let Some(file) = files.next() {
        let follows = files.peek().and_then(|next| next.header).map(|header| (header.follows, header.total));
        if !state.take(file, follows, files.peek().is_none())? {
            for rest in files.by_ref() {
                state.set_behind_hole_aside(rest)?;
            }
        }
    }
    state.lose_what_is_missing_at_the_end();
    seal_and_sync(&mut state)?;
    let Walk { segments, mut total, end, mut report, .. } = state;
    if segments.is_empty() {
        total = cursors.total;
    }
    report.scanned_bytes += (segments.len() * (SEGMENT_HEADER + FOOTER)) as u64;
    let newest = segments.iter().rev().find(|s| s.newest > 0).map(|s| Newest { seq: s.header.seq, pos: s.newest });
    let end = end.unwrap_or_else(|| cursors.by_name.values().map(|c| c.offset).chain([start, cursors.synced]).max().unwrap_or(start));
    Ok(Recovered { segments, next_seq, end, total, newest, cursors, cursor_files, report })
}

/// The segment files of a log in their order; files left by an unfinished rebuild are finished or removed.
fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<Found>, StoreError> {
    let mut entries = fs.list(dir).map_err(StoreError::io("list", dir))?;
    for i in 0..entries.len() {
        let Some(name) = entries[i].name.strip_suffix(".tmp").map(str::to_owned) else { continue };
        let (from, to) = (dir.join(&entries[i].name), dir.join(&name));
        if parse_segment_name(&name).is_some() && !entries.iter().any(|entry| entry.name == name) {
            fs.rename(&from, &to).map_err(StoreError::io("rename", &from))?;
            entries[i].name = name;
        } else {
            fs.remove(&from).map_err(StoreError::io("remove", &from))?;
        }
    }
    let mut found = Vec::new();
    for entry in entries {
        let Some((base, seq)) = parse_segment_name(&entry.name).filter(|_| !entry.is_dir) else { continue };
        let path = dir.join(entry.name);
        let (header, torn, void, rebuilt) = (None, false, false, Rebuilt::No);
        found.push(Found { base, seq, path, file_len: entry.len, header, torn, rebuilt, void, kind: Kind::Unreadable });
    }
    found.sort_by_key(|file| file.seq);
    for file in &mut found {
        let open = fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
        let newer = |found| StoreError::Newer { path: file.path.clone(), found, known: VERSION };
        match SegmentHeader::read(&*open).map_err(StoreError::io("read", &file.path))? {
            Ok(header) if header.seq == file.seq => file.header = Some(header),
            Ok(_) => {}
            Err(BadHeader::Newer(found)) => return Err(newer(found)),
            Err(bad) => {
                file.torn = bad == BadHeader::Torn;
                match rebuild_header(&open, file.file_len, file.base, file.seq).map_err(StoreError::io("read", &file.path))? {
                    Some(Err(BadHeader::Newer(found))) => return Err(newer(found)),
                    Some(Ok(header)) => {
                        // A follows of 0 is that of a log's first segment, or unknown.
                        let is_whole = header.encode()[..] != [0; SEGMENT_HEADER] && header.total + header.synced + header.follows > 0;
                        file.rebuilt = if is_whole { Rebuilt::Whole } else { Rebuilt::Salt };
                        file.header = Some(header);
                    }
                    _ => {}
                }
            }
        }
        let Some(header) = file.header else { continue };
        if let Some(footer) = Footer::read(&*open, file.file_len, header.salt).map_err(StoreError::io("read", &file.path))? {
            file.kind = Kind::Sealed(footer);
        }
    }
    Ok(found)
}

/// Reads the segments whose footer is missing or proves nothing; returns the offset below which everything was synced.
fn read_what_must_be(fs: &dyn Fs, found: &mut [Found], claimed: u64, report: &mut Recovery) -> Result<u64, StoreError> {
    let mut proven = claimed;
    let mut void_from = u64::MAX;
    for file in found.iter_mut().rev() {
        file.void = file.base >= void_from;
        if file.void {
            continue;
        }
        let Some(header) = file.header else { continue };
        proven = proven.max(header.synced);
        // A footer is believed where everything before it is proven; then reading the batches tells nothing new.
        let believed = file.rebuilt != Rebuilt::Salt
            && matches!(&file.kind, Kind::Sealed(footer) if footer.next <= proven && footer.next <= void_from);
        if !believed {
            let open = fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
            let survey = Survey::of(&open, &header, file.file_len, void_from).map_err(StoreError::io("read", &file.path))?;
            report.scanned_bytes += survey.read_bytes;
            proven = proven.max(survey.synced);
            file.kind = Kind::Read(survey);
        }
        void_from = void_from.min(header.base);
    }
    Ok(proven)
}

/// Says what is known of the log before a segment of whose header the salt alone is left.
fn complete_headers(found: &mut [Found], front: Option<(u64, u64)>) {
    let (mut end, mut total) = (None, None);
    for file in found.iter_mut().filter(|file| !file.void) {
        let Some(header) = &mut file.header else { continue };
        let survey = match &file.kind {
            Kind::Read(survey) => Some(survey),
            _ => None,
        };
        if let (Rebuilt::Salt, Some(survey)) = (file.rebuilt, survey) {
            let first = survey.runs.first();
            let is_first_whole = first.is_some_and(|run| run.pos == SEGMENT_HEADER as u64);
            let before_footer = survey.footer.map(|footer| footer.total.saturating_sub(footer.records));
            let before = first.map(|run| run.total_before).or(before_footer).unwrap_or(0);
            header.total = match (total, front) {
                _ if is_first_whole => before,
                (Some(total), _) => total,
                (None, Some((seq, total))) if seq == file.seq => total,
                (None, _) if file.seq == 1 => 0,
                // As many records as offsets, where nothing says more.
                (None, _) => before.saturating_sub(first.map_or(0, |run| run.first.saturating_sub(file.base))),
            };
            let is_next = total.is_none_or(|total| total >= header.total) && end.is_some();
            header.follows = end.filter(|_| is_next).unwrap_or_else(|| first.filter(|_| is_first_whole).map_or(file.base, |run| run.first));
            header.synced = 0;
        }
        let last = survey.and_then(|survey| survey.runs.last());
        let footer = match &file.kind {
            Kind::Sealed(footer) => Some(footer),
            _ => survey.and_then(|survey| survey.footer.as_ref()),
        };
        end = footer.map(|footer| footer.next).or(last.map(|run| run.next)).or(Some(header.follows)).max(end);
        total = footer.map(|footer| footer.total).or(last.map(|run| run.total)).or(Some(header.total)).max(total);
    }
}

struct Walk<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    power_cut: bool,
    proven: u64,
    /// Records appended below `proven`, where the cursors say.
    claimed: Option<u64>,
    /// Offset after the last batch so far; `None` before the first segment.
    end: Option<u64>,
    total: u64,
    segments: VecDeque<Segment>,
    /// By sequence number, from where on a segment is not proven to be on the disk.
    unproven: HashMap<u64, u64>,
    unsynced: bool,
    report: Recovery,
}

impl Walk<'_> {
    /// Whether what is missing from `end` on may never have come to the disk.
    fn may_be_torn(&self, end: u64) -> bool {
        self.power_cut && end >= self.proven
    }

    /// Takes the next segment; false: nothing behind it counts. `follows` and total are those of the segment behind.
    fn take(&mut self, file: Found, follows: Option<(u64, u64)>, is_last: bool) -> Result<bool, StoreError> {
        let Some(header) = file.header else { return self.take_unreadable(file, follows) };
        let end = self.end.unwrap_or(header.follows);
        if self.end.is_none() {
            self.total = header.total;
        }
        if end < header.follows {
            if self.may_be_torn(end) {
                self.set_behind_hole_aside(file)?;
                return Ok(false);
            }
            let records = header.total.checked_sub(self.total);
            // Without records it only jumped, over a segment of which nothing was left.
            if records != Some(0) {
                self.lost(file.path.clone(), format!("offsets {end} to {} are missing before it", header.follows), 0, records);
            }
            self.reach(header.follows);
        }
        if file.rebuilt != Rebuilt::No {
            tracing::warn!(path = %file.path.display(), "the segment's header was damaged and is rebuilt; no record is lost by it");
            self.report.rebuilt_headers += 1;
            // Written again in its place; what follows it stays as it is.
            self.unproven.insert(header.seq, u64::MAX);
        }
        let survey = match file.kind {
            Kind::Sealed(footer) => {
                let mut segment = Segment::from_footer(header, &footer, file.file_len);
                // Reads find their segment by its end: ends never go back, whatever was lost before.
                segment.next = segment.next.max(end);
                self.end = Some(segment.next);
                self.total = footer.total;
                self.segments.push_back(segment);
                return Ok(true);
            }
            Kind::Read(survey) => survey,
            Kind::Unreadable => unreachable!("a segment with a header was read"),
        };
        let base_end = end.max(header.follows);
        // What the segment once reached, as far as anyone says.
        let reached = follows.map(|(follows, _)| follows).or(survey.footer.map(|f| f.next));
        let (kept, mut cut) = self.keep(&survey, base_end, reached, is_last);
        let lost_inside =
            kept.windows(2).any(|pair| pair[0].end() != pair[1].pos) || kept.first().is_some_and(|run| run.pos != SEGMENT_HEADER as u64);
        let kept_end = kept.last().map_or(SEGMENT_HEADER as u64, Run::end);
        let total = kept.last().map_or(header.total, |run| run.total);
        let end = kept.last().map_or(base_end, |run| run.next);
        let corrupt_tail = if is_last && !self.power_cut && end >= self.proven && survey.footer.is_none() && kept_end < survey.end {
            let open = self.fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
            corrupt_tail(&*open, kept_end, survey.end, end, total).map_err(StoreError::io("read", &file.path))?
        } else {
            None
        };
        let footer = survey.footer.filter(|_| kept_end == survey.end && !cut);
        let next = kept.last().map_or(base_end, |run| run.next).max(footer.map_or(0, |footer| footer.next)).max(end);
        // Batches lost at the end, though they were synced.
        let lost_behind = !cut && !self.may_be_torn(next) && reached.map_or(is_last && next < self.proven, |reached| next < reached)
            || corrupt_tail.is_some();
        let reached = reached.max(corrupt_tail.map(|(next, _)| next.max(self.proven)));
        if lost_inside || lost_behind {
            let next = if cut { next } else { reached.unwrap_or(if lost_behind { self.proven } else { next }).max(next) };
            let claimed = self.claimed.filter(|_| lost_behind && is_last).max(corrupt_tail.map(|(_, total)| total));
            let after = follows.map(|(_, total)| total).or(survey.footer.map(|footer| footer.total)).or(claimed).filter(|_| !cut);
            let total_after = after.unwrap_or(total).max(total);
            let used: u64 = kept.iter().map(|run| run.len).sum();
            let records: u64 = kept.iter().map(|run| run.records).sum();
            // The footer counts what was in the file; the totals count what was ever appended, also what compaction dropped since.
            let missing = match survey.footer.filter(|_| !cut) {
                Some(footer) => footer.records.checked_sub(records).map(|inside| inside + total_after.saturating_sub(footer.total)),
                None if lost_behind && after.is_none() => None,
                None => (total_after - header.total).checked_sub(records),
            };
            let (segment, aside) = rebuild(self.fs, self.dir, &file.path, header, &kept, next, total_after)
                .map_err(StoreError::io("rewrite without its corrupt part", &file.path))?;
            self.unsynced = true;
            self.lost(aside, "batches are corrupt".to_owned(), survey.end.saturating_sub(SEGMENT_HEADER as u64 + used), missing);
            self.end = Some(segment.next.max(end));
            self.total = total_after;
            self.segments.push_back(segment);
            return Ok(!cut);
        }
        let mut segment = Segment::from_runs(header, &kept);
        segment.next = next;
        if next > self.proven || kept.is_empty() {
            self.unproven.insert(header.seq, survey.before(self.proven));
        }
        if let Some(footer) = footer {
            segment = Segment::from_footer(header, &footer, kept_end + FOOTER as u64);
            segment.next = next;
        }
        if segment.bytes() != file.file_len {
            let behind = cut && survey.runs.iter().any(|run| run.pos >= kept_end);
            if let Some(aside) = if behind { self.copy_aside(&file.path)? } else { None } {
                let reason = "batches stand behind a torn one, and nothing says they were synced";
                self.lost(aside, reason.to_owned(), survey.end - kept_end, Some(0));
            }
            self.report.truncated_bytes += file.file_len.saturating_sub(segment.bytes());
            let open = self.fs.open(&file.path, Mode::Write).map_err(StoreError::io("open", &file.path))?;
            open.set_len(segment.bytes()).map_err(StoreError::io("cut the torn tail of", &file.path))?;
            self.unsynced = true;
        }
        cut |= follows.is_some_and(|(follows, _)| next < follows && self.may_be_torn(next));
        self.end = Some(segment.next);
        self.total = footer.map_or(total, |footer| footer.total);
        self.segments.push_back(segment);
        Ok(!cut)
    }

    /// The runs that count, and whether the log ends behind them.
    fn keep(&self, survey: &Survey, base_end: u64, reached: Option<u64>, is_last: bool) -> (Vec<Run>, bool) {
        let (mut kept, mut end, mut pos): (Vec<Run>, _, _) = (Vec::new(), base_end, SEGMENT_HEADER as u64);
        for run in &survey.runs {
            if run.pos != pos && self.may_be_torn(end) {
                return (kept, true);
            }
            kept.push(*run);
            (end, pos) = (run.next, run.end());
        }
        let torn_behind = pos < survey.end || survey.footer.is_none();
        let missing_behind = reached.is_some_and(|reached| end < reached);
        (kept, !is_last && torn_behind && missing_behind && self.may_be_torn(end))
    }

    /// A segment whose header is corrupt and in which no batch can be proven.
    fn take_unreadable(&mut self, file: Found, follows: Option<(u64, u64)>) -> Result<bool, StoreError> {
        let end = self.end.unwrap_or(file.base);
        if file.file_len <= SEGMENT_HEADER as u64 || follows.is_some_and(|(follows, _)| follows <= end) {
            self.remove(&file)?; // begun, and given up before a batch was in it; or cut, and then the next segment or the cursors miss it
            return Ok(true);
        }
        if self.may_be_torn(end) && file.base >= self.proven {
            self.set_behind_hole_aside(file)?;
            return Ok(false);
        }
        let total_after = follows.map(|(_, total)| total).or(self.claimed.filter(|_| end < self.proven));
        let open = self.fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
        let claimed = corrupt_tail(&*open, SEGMENT_HEADER as u64, file.file_len, end, self.total);
        let records = match (total_after, claimed.map_err(StoreError::io("read", &file.path))?) {
            (Some(total), _) if self.end.is_some() || file.seq == 1 => total.checked_sub(self.total),
            (_, Some((_, total))) => Some(total - self.total),
            _ if end >= self.proven => Some(0), // nothing vouches for what was in it
            _ => None,
        };
        let total = total_after.unwrap_or(self.total);
        // What an earlier segment holds of the same offsets counts again, now and when the log is opened the next time: this one begins behind it.
        let base = file.base.max(end);
        let header = SegmentHeader { salt: salt(base, file.seq), seq: file.seq, base, follows: end, synced: end, total: self.total };
        let next = follows.map_or(end.max(file.base), |(follows, _)| follows);
        let (segment, aside) =
            rebuild(self.fs, self.dir, &file.path, header, &[], next, total).map_err(StoreError::io("rewrite", &file.path))?;
        self.unsynced = true;
        self.lost(aside, "its header is corrupt".to_owned(), file.file_len, records);
        (self.end, self.total) = (Some(next), total);
        self.segments.push_back(segment);
        Ok(true)
    }

    /// A file behind the place where the log ends now: set aside if there is anything in it.
    fn set_behind_hole_aside(&mut self, file: Found) -> Result<(), StoreError> {
        let holds = match &file.kind {
            Kind::Sealed(footer) => footer.batches > 0,
            Kind::Read(survey) => !survey.runs.is_empty(),
            Kind::Unreadable => file.file_len > SEGMENT_HEADER as u64,
        };
        if holds {
            self.unsynced = true;
            self.report.truncated_bytes += file.file_len;
            let aside = set_aside(self.fs, &file.path, false).map_err(StoreError::io("set aside", &file.path))?;
            let (reason, records) = match file.header {
                _ if file.torn => ("its header is torn, and nothing says it was synced", Some(0)),
                Some(_) => ("it stands behind a torn batch, and nothing says it was synced", Some(0)),
                None => ("its header is corrupt", None),
            };
            self.lost(aside, reason.to_owned(), file.file_len, records);
            return Ok(());
        }
        self.remove(&file)
    }

    fn remove(&mut self, file: &Found) -> Result<(), StoreError> {
        self.unsynced = true;
        self.report.truncated_bytes += file.file_len;
        self.fs.remove(&file.path).map_err(StoreError::io("remove", &file.path))
    }

    /// Keeps a copy of a file that is about to be cut; `None` where there is no room for one.
    fn copy_aside(&self, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        let aside = set_aside(self.fs, path, false).map_err(StoreError::io("set aside", path))?;
        let copied = (|| {
            let (from, to) = (self.fs.open(&aside, Mode::Read)?, self.fs.open(path, Mode::New)?);
            copy(&*from, &*to, 0, from.len()?)?;
            to.sync_data()
        })();
        if copied.is_ok() {
            return Ok(Some(aside));
        }
        self.fs.rename(&aside, path).map_err(StoreError::io("rename", &aside))?;
        Ok(None)
    }

    /// The first segment is not the one that the cursors say is the first, and nothing moved past what is gone.
    fn lose_what_is_missing_at_the_front(&mut self, found: &[Found], cursors: &Cursors) {
        // Nothing is deleted before the cursors are saved.
        let Some((seq, total)) = cursors.front.or((cursors.generation == 0).then_some((1, 0))) else { return };
        let is_passed = |offset| cursors.slowest().is_some_and(|slowest| slowest >= offset);
        let Some(first) = found.iter().find(|file| file.header.is_some() || file.file_len > SEGMENT_HEADER as u64) else {
            if cursors.total > total && !is_passed(cursors.synced) {
                self.lost(self.dir.to_path_buf(), "all segments are missing".to_owned(), 0, Some(cursors.total - total));
            }
            return;
        };
        let Some(header) = first.header.filter(|header| header.seq > seq && header.total > total) else { return };
        // What was not synced when the cursors were saved may have gone since in a power cut.
        if self.power_cut && cursors.synced < header.follows {
            return;
        }
        if !is_passed(header.follows) {
            let reason = format!("offsets below {} are missing at the front", header.follows);
            self.lost(self.dir.to_path_buf(), reason, 0, Some(header.total - total));
        }
    }

    /// The log went on although its last segment ends before what was synced.
    fn lose_what_is_missing_at_the_end(&mut self) {
        let Some(end) = self.end.filter(|end| *end < self.proven) else { return };
        let proven = self.proven;
        let missing = self.claimed.map(|total| total.saturating_sub(self.total));
        self.lost(self.dir.to_path_buf(), format!("offsets {end} to {proven} are missing at the end"), 0, missing);
        self.reach(proven);
        self.end = Some(proven);
        self.total += missing.unwrap_or(0);
    }

    /// The footer of the last segment will say that the log once reached `next`, so that a loss is reported once.
    fn reach(&mut self, next: u64) {
        if let Some(last) = self.segments.back_mut() {
            (last.next, last.sealed, last.footer) = (next, true, false);
        }
    }

    fn lost(&mut self, path: PathBuf, reason: String, bytes: u64, records: Option<u64>) {
        tracing::error!(path = %path.display(), bytes, records, "a part of the log was set aside: {reason}");
        self.report.records_lost = self.report.records_lost.zip(records).map(|(a, b)| a + b);
        self.report.quarantined.push(Quarantined { path, reason, bytes, records });
    }
}

/// How far a header that is not proven may jump, so that a wrong byte does not use offsets up.
const FARTHEST: u64 = 1 << 32;

/// Batches at the end of a file that claim to be whole and are not: what the log reaches with them, and its records up to there.
fn corrupt_tail(file: &dyn File, mut pos: u64, len: u64, mut next: u64, mut total: u64) -> io::Result<Option<(u64, u64)>> {
    let before = next;
    let mut bytes = [0; BATCH_HEADER];
    while pos + BATCH_HEADER as u64 <= len && file.read_full_at(pos, &mut bytes).unwrap_or(0) == BATCH_HEADER {
        let header = BatchHeader::decode(&bytes);
        let is_far = header.first - next.min(header.first) > FARTHEST || header.records > header.span;
        if header.is_footer() || !header.plausible(len - pos, next) || header.total != total || is_far {
            break;
        }
        pos += header.size() as u64;
        next = header.next();
        total += u64::from(header.records);
    }
    Ok((next > before).then_some((next, total)))
}

/// Gives every segment that is not appended to its footer, and makes durable what is not proven to be.
///
/// What is not proven is written again in its place before it is synced: an fdatasync that failed before the crash has left pages that
/// look clean, and another one would pass over them.
fn seal_and_sync(walk: &mut Walk<'_>) -> Result<(), StoreError> {
    let (fs, dir) = (walk.fs, walk.dir);
    let mut touched = walk.unsynced;
    for i in 0..walk.segments.len() {
        let is_last = i + 1 == walk.segments.len();
        let total = walk.segments.get(i + 1).map_or(walk.total, |next| next.header.total);
        let segment = &mut walk.segments[i];
        segment.sealed |= !is_last;
        let needs_footer = segment.sealed && !segment.footer;
        let unproven = walk.unproven.get(&segment.header.seq);
        if !needs_footer && unproven.is_none() && !(is_last && walk.unsynced) {
            continue;
        }
        let path = segment.path(dir);
        let file = fs.open(&path, Mode::Write).map_err(StoreError::io("open", &path))?;
        if let Some(from) = unproven {
            file.write_all_at(0, &segment.header.encode()).map_err(StoreError::io("write", &path))?;
            copy(&*file, &*file, *from, segment.bytes()).map_err(StoreError::io("write", &path))?;
        }
        if needs_footer {
            // On a full disk it does without: then the segment is read again at the next start.
            let footer = segment.footer(total).encode(segment.header.salt);
            segment.footer = file.write_all_at(segment.len, &footer).is_ok();
            if !segment.footer {
                file.set_len(segment.len).map_err(StoreError::io("cut", &path))?;
            }
        }
        file.sync_data().map_err(StoreError::io("sync", &path))?;
        touched = true;
    }
    if touched { fs.sync_dir(dir).map_err(StoreError::io("sync", dir)) } else { Ok(()) }
}

/// Copies a piece of one file to the same place of another, or of itself.
fn copy(from: &dyn File, to: &dyn File, mut pos: u64, end: u64) -> io::Result<()> {
    let mut part = vec![0; 256 << 10];
    while pos < end {
        let len = part.len().min((end - pos) as usize);
        let n = from.read_full_at(pos, &mut part[..len])?;
        if n == 0 {
            break;
        }
        to.write_all_at(pos, &part[..n])?;
        pos += n as u64;
    }
    Ok(())
}

/// A number of a segment's own.
pub fn salt(base: u64, seq: u64) -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    crc32c::crc32c(format!("{now} {} {}", std::process::id(), segment_name(base, seq)).as_bytes())
}
