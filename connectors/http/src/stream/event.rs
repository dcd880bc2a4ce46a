//! Server-sent events out of a stream of bytes.
//!
//! Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".

use std::time::Duration;

/// One event.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Event {
    /// `message` where nothing is said.
    pub kind: String,
    pub data: Vec<u8>,
}

/// What a piece of a stream holds.
#[derive(Debug)]
pub enum Found<'a> {
    Event(&'a Event),
    /// An event larger than allowed, which was passed over.
    TooLarge,
}

/// Reads events, however the stream is cut into pieces. What is begun when the stream ends is no event.
#[derive(Debug)]
pub struct Events {
    most: usize,
    line: Vec<u8>,
    event: Event,
    id: Option<String>,
    last_id: String,
    retry: Option<Duration>,
    has_data: bool,
    is_too_large: bool,
    after_cr: bool,
    is_begun: bool,
}

impl Events {
    /// `most`: bytes of one event. `last_id`: of the event that was read last.
    pub fn new(most: usize, last_id: String) -> Self {
        Self {
            most,
            line: Vec::new(),
            event: Event::default(),
            id: None,
            last_id,
            retry: None,
            has_data: false,
            is_too_large: false,
            after_cr: false,
            is_begun: false,
        }
    }

    /// The id of the last event that is complete.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// How long the server wants a client to stay away before it comes again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes a piece; each complete event is handed to `take`, with [`last_id`](Self::last_id) being its id afterwards.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(Found<'_>)) {
        for byte in piece {
            let ends = match byte {
                // The second half of CR LF.
                b'\n' if std::mem::take(&mut self.after_cr) => continue,
                b'\n' => true,
                b'\r' => {
                    self.after_cr = true;
                    true
                }
                _ => {
                    self.after_cr = false;
                    if self.line.len() < self.most {
                        self.line.push(*byte);
                    } else {
                        self.is_too_large = true;
                    }
                    false
                }
            };
            if ends {
                let line = std::mem::take(&mut self.line);
                let text =
                    if std::mem::replace(&mut self.is_begun, true) { &line } else { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line) };
                if text.is_empty() {
                    self.dispatch(&mut take)
                } else {
                    self.field(text)
                }
                self.line = line;
                self.line.clear();
            }
        }
    }

    fn dispatch(&mut self, take: &mut impl FnMut(Found<'_>)) {
        if let Some(id) = self.id.take() {
            self.last_id = id;
        }
        if self.is_too_large {
            take(Found::TooLarge);
        } else if self.has_data {
            // The last line feed is not part of it.
            self.event.data.pop();
            if self.event.kind.is_empty() {
                self.event.kind.push_str("message");
            }
            take(Found::Event(&self.event));
        }
        self.event.kind.clear();
        self.event.data.clear();
        (self.has_data, self.is_too_large) = (false, false);
    }

    fn field(&mut self, line: &[u8]) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &[][..]),
        };
        match name {
            b"data" => {
                self.has_data = true;
                if self.event.data.len() + value.len() < self.most {
                    self.event.data.extend_from_slice(value);
                    self.event.data.push(b'\n');
                } else {
                    self.is_too_large = true;
                }
            }
            b"event" => self.event.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"retry" => {
                let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                if let Some(millis) = digits.and_then(|text| text.parse().ok()) {
                    self.retry = Some(Duration::from_millis(millis));
                }
            }
            // A comment, or a field of a later edition.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], cut: usize) -> (Vec<(String, String)>, String, Option<Duration>, usize) {
        let mut events = Events::new(64, String::new());
        let (mut all, mut large) = (Vec::new(), 0);
        for piece in text.chunks(cut) {
            events.push(piece, |found| match found {
                Found::Event(event) => all.push((event.kind.clone(), String::from_utf8(event.data.clone()).unwrap())),
                Found::TooLarge => large += 1,
            });
        }
        (all, events.last_id().to_owned(), events.retry(), large)
    }

    /// Section 9.2.6, its examples.
    #[test]
    fn events_are_as_the_standard_has_them_however_they_are_cut() {
        let stream = "\u{FEFF}: test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\ndata: YHOO\ndata: +2\r\ndata: 10\r\n\r\n\
                      event: add\rdata: 73857293\rid: 7\r\rdata\n\nretry: 2500\nretry: x\nid: 8\n\ndata: not ended\nid: 9\n";
        for cut in [1, 2, 3, 7, 1000] {
            let (all, last, retry, large) = read(stream.as_bytes(), cut);
            let wanted = [
                ("message", "first event"),
                ("message", "second event"),
                ("message", " third event"),
                ("message", "YHOO\n+2\n10"),
                ("add", "73857293"),
                ("message", ""),
            ];
            assert_eq!(all, wanted.map(|(kind, data)| (kind.to_owned(), data.to_owned())), "{cut}");
            assert_eq!((last.as_str(), retry, large), ("8", Some(Duration::from_millis(2500)), 0));
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_passed_over_and_the_next_one_is_not() {
        let stream = format!(
            "data: {}\nid: 1\n\ndata: {}\ndata: {}\nid: 2\n\ndata: small\nid: 3\n\n",
            "x".repeat(100),
            "y".repeat(40),
            "y".repeat(40)
        );
        let (all, last, _, large) = read(stream.as_bytes(), 5);
        assert_eq!((all, last.as_str(), large), (vec![("message".to_owned(), "small".to_owned())], "3", 2));
    }
}
