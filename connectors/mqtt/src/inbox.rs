//! Bytes of a connection that were read and not handled yet: packets one by one, and of one that is too long its beginning.

use crate::packet::{self, Frame, Malformed, Packet, Version};

/// What is read at once, while nothing longer arrives.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// How much of an oversized message is kept: its topic, its properties and the beginning of its payload.
pub const KEPT_OF_OVERSIZED: usize = 128 * 1024;

/// Bytes read and not handled yet.
///
/// ```text
/// buf  | handled | start: packets .. | end: space |
/// ```
pub struct Inbox {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    max_packet: usize,
    /// Of an oversized message whose beginning is kept: how many bytes still pass by.
    passing: Option<usize>,
    /// Where the packet taken last began.
    last: usize,
    /// Whether the last read filled all the space there was.
    brimming: bool,
}

/// What lies next in the inbox.
#[derive(Debug, PartialEq)]
pub enum Inbound<'a> {
    Packet(Packet<'a>),
    /// A message longer than allowed: its payload is only the beginning, `len` is the whole packet's length.
    Oversized {
        publish: packet::Publish<'a>,
        len: usize,
    },
}

impl Inbox {
    pub fn new(max_packet: usize) -> Self {
        Self {
            buf: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            max_packet: max_packet.max(KEPT_OF_OVERSIZED),
            passing: None,
            last: 0,
            brimming: false,
        }
    }

    /// Takes the next packet; `None` while it is not whole. It is borrowed: handle it before the next call.
    #[inline]
    pub fn next(&mut self, version: Version) -> Result<Option<Inbound<'_>>, Malformed> {
        let waiting = &self.buf[self.start..self.end];
        let Some(frame) = Frame::read(waiting)? else { return Ok(None) };
        let len = frame.len();
        if len > self.max_packet {
            return self.oversized(frame, version);
        }
        if waiting.len() < len {
            return Ok(None);
        }
        let body = self.start + frame.header..self.start + len;
        self.last = self.start;
        self.start += len;
        Packet::read(frame, &self.buf[body], version).map(|packet| Some(Inbound::Packet(packet)))
    }

    fn oversized(&mut self, frame: Frame, version: Version) -> Result<Option<Inbound<'_>>, Malformed> {
        if !frame.is_publish() {
            return Err(Malformed { packet: "packet", what: "longer than any but a PUBLISH may be" });
        }
        let here = self.end - self.start;
        match self.passing {
            None if here < KEPT_OF_OVERSIZED => return Ok(None),
            None => {
                // All of it that is here beyond what is kept passes by at once; what follows it moves up.
                let gone = (here - KEPT_OF_OVERSIZED).min(frame.len() - KEPT_OF_OVERSIZED);
                let kept = self.start + KEPT_OF_OVERSIZED;
                self.buf.copy_within(kept + gone..self.end, kept);
                self.end -= gone;
                self.passing = Some(frame.len() - KEPT_OF_OVERSIZED - gone);
            }
            Some(_) => {}
        }
        if self.passing != Some(0) {
            return Ok(None);
        }
        self.passing = None;
        let body = self.start + frame.header..self.start + KEPT_OF_OVERSIZED;
        self.last = self.start;
        self.start += KEPT_OF_OVERSIZED;
        let publish = packet::Publish::read(frame.first, &self.buf[body], version)?;
        Ok(Some(Inbound::Oversized { publish, len: frame.len() }))
    }

    /// Where to read to: never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buf.len() > 4 * READ_BYTES {
                self.buf = vec![0; READ_BYTES];
            }
        } else if self.buf.len() - self.end < READ_BYTES / 4 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buf.len() - self.end < READ_BYTES / 4 {
                // One packet fills most of the buffer: double it. `next` sees to it that this ends at `max_packet`.
                let doubled = self.buf.len() * 2;
                self.buf.resize(doubled, 0);
            }
        }
        &mut self.buf[self.end..]
    }

    /// The first byte that waits.
    pub(crate) fn first(&self) -> Option<u8> {
        self.buf[self.start..self.end].first().copied()
    }

    /// Puts the packet taken last back: `next` takes it again.
    pub fn put_back(&mut self) {
        let Ok(Some(frame)) = Frame::read(&self.buf[self.last..self.end]) else { return };
        if frame.len() > self.max_packet {
            self.passing = Some(0);
        }
        self.start = self.last;
    }

    /// Whether more waits to be read, as far as the last read can tell.
    pub fn is_brimming(&self) -> bool {
        self.brimming
    }

    pub(crate) fn filled(&mut self, n: usize) {
        self.brimming = self.end + n == self.buf.len();
        match &mut self.passing {
            None => self.end += n,
            Some(left) => {
                let passed = n.min(*left);
                *left -= passed;
                self.buf.copy_within(self.end + passed..self.end + n, self.end);
                self.end += n - passed;
            }
        }
    }

    /// Appends bytes as if they had been read; for tests and fuzzing.
    #[doc(hidden)]
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.filled(n);
            bytes = &bytes[n..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Message, Qos, write_publish};

    fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_publish(&mut out, Version::V4, &Message { topic, payload, qos: Qos::AtLeastOnce, retain: false, properties: &[] }, 7);
        out
    }

    fn topics(inbox: &mut Inbox) -> Vec<(String, usize)> {
        let mut seen = Vec::new();
        while let Some(inbound) = inbox.next(Version::V4).unwrap() {
            seen.push(match inbound {
                Inbound::Packet(Packet::Publish(publish)) => (publish.topic.to_owned(), publish.payload.len()),
                Inbound::Oversized { publish, len } => (format!("{} of {len}", publish.topic), publish.payload.len()),
                other => panic!("{other:?}"),
            });
        }
        seen
    }

    #[test]
    fn packets_come_whole_however_they_are_cut() {
        let bytes = [publish("a", &[1; 300]), publish("b", b""), publish("c", &[2; 70_000])].concat();
        for step in [1, 2, 3, 7, 1000, 65_536, 100_000] {
            let mut inbox = Inbox::new(1 << 20);
            let mut seen = Vec::new();
            for chunk in bytes.chunks(step) {
                inbox.feed(chunk);
                seen.extend(topics(&mut inbox));
            }
            assert_eq!(seen, [("a".into(), 300), ("b".into(), 0), ("c".into(), 70_000)], "in steps of {step}");
        }
    }

    #[test]
    fn an_oversized_message_passes_by_with_its_beginning_kept() {
        let long = publish("long", &vec![3; 900_000]);
        let bytes = [publish("a", b"1"), long.clone(), publish("b", b"22"), publish("long", &vec![3; 800_000]), publish("c", b"")].concat();
        for step in [10, 1000, 65_536, 700_000, 2_000_000] {
            let mut inbox = Inbox::new(200_000);
            let mut seen = Vec::new();
            for chunk in bytes.chunks(step) {
                for part in chunk.chunks(READ_BYTES) {
                    inbox.feed(part);
                    seen.extend(topics(&mut inbox));
                }
            }
            assert_eq!(seen[0], ("a".into(), 1));
            assert_eq!(seen[1].0, format!("long of {}", long.len()));
            assert!(seen[1].1 > 100_000);
            assert_eq!(seen[2], ("b".into(), 2));
            assert_eq!(seen[4], ("c".into(), 0), "in steps of {step}");
            assert!(inbox.buf.len() <= 512 * 1024, "the buffer grew to {}", inbox.buf.len());
        }
    }

    #[test]
    fn a_claimed_length_is_not_allocated() {
        let mut inbox = Inbox::new(64 << 20);
        inbox.feed(&[0x30, 0x80, 0x80, 0x80, 0x10, 0, 1, b'a']);
        assert_eq!(inbox.next(Version::V4), Ok(None));
        assert_eq!(inbox.buf.len(), READ_BYTES);
    }
}
