//! The last live lines, each made once, and who wants which.
//!
//! A name that somebody watches is matched once with each subject, not with each line: a line finds its watchers by its subject's number, and only
//! those are woken.

use crate::live::events::event;
use crate::pattern::is_of;
use axum::body::Bytes;
use millrace_engine::taps::Line;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// What the ring holds.
const LINES: usize = 20_000;
const BYTES: usize = 16 << 20;
/// Lines looked at in one go, and bytes sent.
pub const LOOKED_AT: usize = 4096;
const CHUNK: usize = 64 << 10;

/// The subject of gaps, which every feed wants.
const GAPS: u32 = 0;

/// A line as every client of it is sent.
struct Sent {
    subject: u32,
    event: Bytes,
}

/// A tag, or the documents of a topic, of one source.
struct Subject {
    source: Arc<str>,
    name: Arc<str>,
    /// Those that want it.
    feeds: Vec<usize>,
}

/// What the clients of one name follow.
struct Feed {
    name: String,
    clients: usize,
    /// A bit for each subject: whether it is wanted.
    wanted: Vec<u64>,
    /// The number of the next line when it last had one.
    news: watch::Sender<u64>,
    /// It has lines that its clients were not told of.
    is_untold: bool,
    /// Below this number lines that it wants may be gone.
    gone: u64,
}

impl Feed {
    fn wants(&self, subject: u32) -> bool {
        self.wanted.get(subject as usize / 64).is_some_and(|bits| bits >> (subject % 64) & 1 == 1)
    }

    fn want(&mut self, subject: u32) {
        let word = subject as usize / 64;
        if self.wanted.len() <= word {
            self.wanted.resize(word + 1, 0);
        }
        self.wanted[word] |= 1 << (subject % 64);
    }
}

/// What a client finds when it looks.
pub enum Found {
    Lines(Bytes, u64),
    /// Nothing it wants, up to there.
    Nothing(u64),
    /// Lines are missing, and nobody here is to blame.
    Cut(u64),
    /// The client was slower than the ring.
    TooSlow,
}

#[derive(Default)]
pub struct Ring {
    /// Tells this run's numbers from another's.
    pub run: String,
    /// The number of the first line here.
    first: u64,
    lines: VecDeque<Sent>,
    bytes: usize,
    /// Below it something is missing that no client could have had: nobody listened to intake.
    cut: u64,
    subjects: Vec<Subject>,
    /// By source and name.
    numbers: HashMap<Arc<str>, HashMap<Arc<str>, u32>>,
    /// Those that nobody follows any more are free to be used again.
    feeds: Vec<Option<Feed>>,
    by_name: HashMap<String, usize>,
}

impl Ring {
    pub fn new(run: String) -> Self {
        let gaps = Subject { source: "".into(), name: "".into(), feeds: Vec::new() };
        Self { run, subjects: vec![gaps], ..Self::default() }
    }

    /// The number of the next line.
    pub fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Takes a line up; [`Ring::tell`] wakes those that want it.
    pub fn push(&mut self, line: &Line) {
        let subject = self.subject(line);
        self.append(subject, "sample", &String::from_utf8_lossy(&line.value));
    }

    /// Lines are missing here, because more came than was taken up. Everybody is told.
    pub fn gap(&mut self) {
        self.append(GAPS, "gap", r#"{"why":"more came than is kept here; nothing is lost in Kafka"}"#);
    }

    fn append(&mut self, subject: u32, kind: &str, data: &str) {
        let mut text = String::with_capacity(data.len() + 64);
        let id = format!("{}-{}", self.run, self.next() + 1);
        event(&mut text, kind, Some(&id), data);
        self.bytes += text.len();
        self.lines.push_back(Sent { subject, event: text.into() });
        for feed in &self.subjects[subject as usize].feeds {
            if let Some(feed) = &mut self.feeds[*feed] {
                feed.is_untold = true;
            }
        }
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.event.len();
            self.first += 1;
            for feed in &self.subjects[old.subject as usize].feeds {
                if let Some(feed) = &mut self.feeds[*feed] {
                    feed.gone = self.first;
                }
            }
        }
    }

    /// Wakes the clients of what was pushed.
    pub fn tell(&mut self) {
        let next = self.next();
        for feed in self.feeds.iter_mut().flatten() {
            if std::mem::take(&mut feed.is_untold) {
                feed.news.send_replace(next);
            }
        }
    }

    /// Forgets all lines: so many were missed.
    pub fn cut(&mut self, missed: u64) {
        self.first = self.next() + missed;
        self.cut = self.first;
        self.lines.clear();
        self.bytes = 0;
        self.feeds.iter_mut().flatten().for_each(|feed| feed.is_untold = true);
    }

    /// The number of a line's subject.
    fn subject(&mut self, line: &Line) -> u32 {
        if let Some(number) = self.numbers.get(&line.source).and_then(|of_source| of_source.get(&line.subject)) {
            return *number;
        }
        let number = self.subjects.len() as u32;
        let mut feeds = Vec::new();
        for (at, feed) in self.feeds.iter_mut().enumerate() {
            if let Some(feed) = feed.as_mut().filter(|feed| is_of(&line.source, &line.subject, &feed.name)) {
                feed.want(number);
                feeds.push(at);
            }
        }
        self.numbers.entry(line.source.clone()).or_default().insert(line.subject.clone(), number);
        self.subjects.push(Subject { source: line.source.clone(), name: line.subject.clone(), feeds });
        number
    }

    /// One more client of a name. Returned are its feed and how it is woken; [`Ring::unfollow`] gives it back.
    pub fn follow(&mut self, name: &str) -> (usize, watch::Receiver<u64>) {
        if let Some(at) = self.by_name.get(name)
            && let Some(feed) = &mut self.feeds[*at]
        {
            feed.clients += 1;
            return (*at, feed.news.subscribe());
        }
        let at = self.feeds.iter().position(Option::is_none).unwrap_or(self.feeds.len());
        let (news, woken) = watch::channel(self.next());
        let mut feed = Feed { name: name.to_owned(), clients: 1, wanted: Vec::new(), news, is_untold: false, gone: self.first };
        for (number, subject) in (GAPS..).zip(&mut self.subjects) {
            if number == GAPS || is_of(&subject.source, &subject.name, name) {
                feed.want(number);
                subject.feeds.push(at);
            }
        }
        if at == self.feeds.len() {
            self.feeds.push(None);
        }
        self.feeds[at] = Some(feed);
        self.by_name.insert(name.to_owned(), at);
        (at, woken)
    }

    /// A client of this feed is gone.
    pub fn unfollow(&mut self, at: usize) {
        let Some(feed) = &mut self.feeds[at] else { return };
        feed.clients -= 1;
        if feed.clients > 0 {
            return;
        }
        self.by_name.remove(&feed.name);
        self.feeds[at] = None;
        self.subjects.iter_mut().for_each(|subject| subject.feeds.retain(|feed| *feed != at));
    }

    /// Whether a client of a feed that is there missed lines, and they were in the ring.
    pub fn is_too_slow(&self, from: u64, feed: usize) -> bool {
        from >= self.cut && self.feeds[feed].as_ref().is_some_and(|feed| from < feed.gone)
    }

    /// What a client of a feed has to be sent from this number on.
    pub fn look(&self, from: u64, feed: usize) -> Found {
        if from < self.cut {
            return Found::Cut(self.cut);
        }
        let Some(feed) = &self.feeds[feed] else { return Found::TooSlow };
        if from < feed.gone {
            return Found::TooSlow;
        }
        let (mut events, mut bytes, mut at) = (Vec::new(), 0, from.max(self.first));
        for sent in self.lines.range((at - self.first) as usize..).take(LOOKED_AT) {
            at += 1;
            if feed.wants(sent.subject) {
                events.push(sent.event.clone());
                bytes += sent.event.len();
            }
            if bytes > CHUNK {
                break;
            }
        }
        match events.as_slice() {
            [] => Found::Nothing(at),
            [one] => Found::Lines(one.clone(), at),
            several => Found::Lines(several.concat().into(), at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, n: usize) -> Line {
        Line { source: "a/b/c".into(), subject: format!("a/b/{name}").into(), value: n.to_string().into_bytes().into() }
    }

    fn found(ring: &Ring, from: u64, feed: usize) -> (String, u64) {
        match ring.look(from, feed) {
            Found::Lines(lines, next) => (String::from_utf8(lines.to_vec()).expect("text"), next),
            Found::Nothing(next) => ("nothing".to_owned(), next),
            Found::Cut(next) => ("cut".to_owned(), next),
            Found::TooSlow => ("too slow".to_owned(), from),
        }
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_knows_what_it_never_had() {
        let mut ring = Ring::new("run".to_owned());
        (0..LINES + 5).for_each(|n| ring.push(&line("t", n)));
        assert_eq!(ring.lines[0].event, "id: run-6\nevent: sample\ndata: 5\n\n");
        assert_eq!((ring.first, ring.next(), ring.cut), (5, LINES as u64 + 5, 0));
        ring.cut(3);
        assert_eq!((ring.first, ring.next(), ring.cut, ring.bytes), (LINES as u64 + 8, LINES as u64 + 8, LINES as u64 + 8, 0));
        let big = Line { value: vec![b'x'; BYTES + 1].into(), ..line("t", 0) };
        ring.push(&big);
        assert_eq!((ring.lines.len(), ring.bytes), (0, 0));
    }

    #[test]
    fn a_client_is_woken_by_what_it_wants_alone() {
        let mut ring = Ring::new("run".to_owned());
        ring.push(&line("known", 0));
        let ((known, mut of_known), (new, mut of_new), (all, of_all)) = (ring.follow("known"), ring.follow("new*"), ring.follow(""));
        ring.push(&line("newer", 1));
        ring.tell();
        let is_woken = |woken: &watch::Receiver<u64>| woken.has_changed().expect("the feed is there");
        assert_eq!((is_woken(&of_known), is_woken(&of_new), is_woken(&of_all)), (false, true, true));
        assert_eq!(found(&ring, 1, new), ("id: run-2\nevent: sample\ndata: 1\n\n".to_owned(), 2));
        assert_eq!(found(&ring, 1, known), ("nothing".to_owned(), 2));
        assert_eq!(found(&ring, 0, all).0.matches("event: sample").count(), 2);
        of_new.mark_unchanged();
        ring.push(&line("known", 2));
        ring.tell();
        assert_eq!((is_woken(&of_known), is_woken(&of_new)), (true, false));
        // A gap is told to everybody, between what came before and after it.
        of_known.mark_unchanged();
        ring.gap();
        ring.push(&line("newer", 3));
        ring.tell();
        assert_eq!((is_woken(&of_known), is_woken(&of_new)), (true, true));
        let (told, next) = found(&ring, 2, new);
        assert!(told.starts_with("id: run-4\nevent: gap\n") && told.ends_with("id: run-5\nevent: sample\ndata: 3\n\n"), "{told}");
        assert_eq!(next, 5);
        ring.cut(1);
        assert_eq!(found(&ring, 2, known), ("cut".to_owned(), 6));
    }

    #[test]
    fn a_client_is_too_slow_for_lines_it_wants_alone() {
        let mut ring = Ring::new("run".to_owned());
        let ((rare, _), (often, _)) = (ring.follow("rare"), ring.follow("often"));
        ring.push(&line("rare", 0));
        (0..LINES).for_each(|n| ring.push(&line("often", n)));
        // The one line it wants is gone; from there on it missed nothing, however far behind it is.
        assert!(ring.is_too_slow(0, rare) && !ring.is_too_slow(1, rare) && !ring.is_too_slow(0, often));
        ring.push(&line("often", LINES));
        assert!(ring.is_too_slow(0, often) && !ring.is_too_slow(1, rare));
        assert_eq!(found(&ring, 0, often).0, "too slow");
        // Whoever comes later and begins with what is gone can't know.
        let (late, _) = ring.follow("never");
        assert_eq!(found(&ring, 1, late).0, "too slow");
    }

    #[test]
    fn a_feed_that_nobody_follows_costs_nothing_and_its_place_is_used_again() {
        let mut ring = Ring::new("run".to_owned());
        ring.push(&line("t", 0));
        let ((first, _), (same, _), (other, _)) = (ring.follow("t"), ring.follow("t"), ring.follow("*"));
        assert_eq!((first, same), (0, 0));
        ring.unfollow(first);
        assert_eq!(ring.subjects[1].feeds, [0, 1]);
        ring.unfollow(same);
        assert_eq!(ring.subjects[1].feeds, [other]);
        assert_eq!(ring.follow("u").0, 0);
        ring.push(&line("t", 1));
        assert_eq!(found(&ring, 1, 0), ("nothing".to_owned(), 2));
    }
}
