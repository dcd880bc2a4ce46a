//! Whether a request is what its lists say, before anything is allocated for them.
//!
//! The decoder of kafka-protocol reserves memory for as many elements as a list's length claims, and a claim costs four bytes. So each frame is walked
//! first, without allocating: every length must fit into what is left of it, and there may be [`ELEMENTS_MAX`] in all lists together.
//!
//! A shape is what stands on the wire, in order: `1 2 4 8 16` bytes, `s` a string, `y` bytes, `(x)` a list of such, `[..]` a list of structures, `{..}` a structure or nothing.
//! `3+:` is there since version 3, `-2:` until 2. In flexible versions lengths are varints, and every structure ends with tagged fields.
//! Source: the message definitions of Apache Kafka 4.1.

use kafka_protocol::messages::ApiKey;

use crate::limits::ELEMENTS_MAX;

/// The first flexible version of a request, and its shape.
fn of(key: ApiKey) -> Option<(i16, &'static str)> {
    Some(match key {
        ApiKey::Produce => (9, "s 2 4 [s [4 y]]"),
        ApiKey::Fetch => (12, "4 4 4 4 1 7+:4 7+:4 [s [4 9+:4 8 12+:4 5+:8 4]] 7+:[7+:s 7+:(4)] 11+:s"),
        ApiKey::ListOffsets => (6, "4 2+:1 [s [4 4+:4 8]]"),
        ApiKey::Metadata => (9, "[10+:16 s] 4+:1 8-10:1 8+:1"),
        ApiKey::OffsetCommit => (8, "s 4 s 7+:s -4:8 [s [4 8 6+:4 s]]"),
        ApiKey::OffsetFetch => (6, "-7:s -7:[-7:s -7:(4)] 8+:[8+:s 8+:[8+:s 8+:(4)]] 7+:1"),
        ApiKey::FindCoordinator => (3, "-3:s 1+:1 4+:(s)"),
        ApiKey::JoinGroup => (6, "s 4 1+:4 s 5+:s s [s y] 8+:s"),
        ApiKey::Heartbeat => (4, "s 4 s 3+:s"),
        ApiKey::LeaveGroup => (4, "s -2:s 3+:[3+:s 3+:s 5+:s]"),
        ApiKey::SyncGroup => (4, "s 4 s 3+:s 5+:s 5+:s [s y]"),
        ApiKey::DescribeGroups => (5, "(s) 3+:1"),
        ApiKey::ListGroups => (3, "4+:(s) 5+:(s)"),
        ApiKey::ApiVersions => (3, "3+:s 3+:s"),
        ApiKey::CreateTopics => (5, "[s 4 2 [4 (4)] [s s]] 4 1"),
        ApiKey::DeleteTopics => (4, "6+:[6+:s 6+:16] -5:(s) 4"),
        ApiKey::DeleteRecords => (2, "[s [4 8]] 4"),
        ApiKey::OffsetForLeaderEpoch => (4, "3+:4 [s [4 4 4]]"),
        ApiKey::DescribeAcls => (2, "1 s 1 s s 1 1"),
        ApiKey::DescribeConfigs => (4, "[1 s (s)] 1 3+:1"),
        ApiKey::AlterConfigs => (2, "[1 s [s s]] 1"),
        ApiKey::DescribeLogDirs => (2, "[s (4)]"),
        ApiKey::CreatePartitions => (2, "[s 4 [(4)]] 4 1"),
        ApiKey::DeleteGroups => (2, "(s)"),
        ApiKey::IncrementalAlterConfigs => (1, "[1 s [s 1 s]] 1"),
        ApiKey::OffsetDelete => (99, "s [s [4]]"),
        ApiKey::DescribeCluster => (0, "1 1+:1"),
        ApiKey::DescribeProducers => (0, "[s (4)]"),
        ApiKey::InitProducerId => (2, "s 4 3+:8 3+:2"),
        ApiKey::AddPartitionsToTxn => (3, "s 8 2 [s (4)]"),
        ApiKey::AddOffsetsToTxn => (3, "s 8 2 s"),
        ApiKey::EndTxn => (3, "s 8 2 1"),
        ApiKey::TxnOffsetCommit => (3, "s s 8 2 3+:4 3+:s 3+:s [s [4 8 2+:4 s]]"),
        ApiKey::SaslHandshake => (99, "s"),
        ApiKey::SaslAuthenticate => (2, "y"),
        ApiKey::ListTransactions => (0, "(s) (8) 1+:8"),
        ApiKey::DescribeTransactions => (0, "(s)"),
        ApiKey::ListPartitionReassignments => (0, "4 [s (4)]"),
        ApiKey::DescribeTopicPartitions => (0, "[s] 4 {s 4}"),
        _ => return None,
    })
}

/// Elements of all lists of a request together; `None`: a length in it is a lie, or they are too many.
pub fn elements(key: ApiKey, version: i16, body: &[u8]) -> Option<usize> {
    let (flexible_since, shape) = of(key)?;
    let mut walk = Walk { version, flexible: version >= flexible_since, rest: body, elements: 0 };
    walk.structure(shape)?;
    Some(walk.elements)
}

/// Checks the body of a request. False: a length in it is a lie.
#[cfg(test)]
fn holds(key: ApiKey, version: i16, body: &[u8]) -> bool {
    elements(key, version, body).is_some()
}

struct Walk<'a> {
    version: i16,
    flexible: bool,
    rest: &'a [u8],
    elements: usize,
}

impl Walk<'_> {
    fn structure(&mut self, shape: &str) -> Option<()> {
        let mut shape = shape;
        while let Some(field) = next_field(&mut shape) {
            if (field.since..=field.until).contains(&self.version) {
                self.field(field.kind)?;
            }
        }
        if self.flexible {
            for _ in 0..self.varint()? {
                // What nobody knows is kept with its element, and costs as much.
                self.count(1)?;
                self.varint()?;
                let len = self.varint()?;
                self.skip(len as usize)?;
            }
        }
        Some(())
    }

    fn field(&mut self, kind: &str) -> Option<()> {
        match kind.as_bytes()[0] {
            b's' => {
                let len = self.length(2)?.unwrap_or(0);
                self.skip(len)
            }
            b'y' => {
                let len = self.length(4)?.unwrap_or(0);
                self.skip(len)
            }
            open @ (b'[' | b'(') => {
                let inner = &kind[1..kind.len() - 1];
                let count = self.length(4)?.unwrap_or(0);
                if count > self.rest.len() {
                    return None;
                }
                self.count(count)?;
                for _ in 0..count {
                    if open == b'[' { self.structure(inner)? } else { self.field(inner)? }
                }
                Some(())
            }
            b'{' => {
                let (head, rest) = self.rest.split_first()?;
                self.rest = rest;
                if *head as i8 >= 0 { self.structure(&kind[1..kind.len() - 1]) } else { Some(()) }
            }
            _ => self.skip(kind.parse().expect("a shape's number")),
        }
    }

    fn count(&mut self, elements: usize) -> Option<()> {
        self.elements += elements;
        (self.elements <= ELEMENTS_MAX).then_some(())
    }

    /// A length in front of something, of `size` bytes where it is no varint; `None` inside: there is nothing.
    fn length(&mut self, size: usize) -> Option<Option<usize>> {
        if self.flexible {
            return Some((self.varint()? as usize).checked_sub(1));
        }
        let (head, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        let len = match *head {
            [a, b] => i16::from_be_bytes([a, b]).into(),
            [a, b, c, d] => i32::from_be_bytes([a, b, c, d]),
            _ => return None,
        };
        match len {
            -1 => Some(None),
            len => usize::try_from(len).ok().map(Some),
        }
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for i in 0..5 {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u32::from(byte & 0x7f).checked_shl(7 * i)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.rest = self.rest.get(len..)?;
        Some(())
    }
}

/// One field of a shape.
struct Field<'a> {
    since: i16,
    until: i16,
    kind: &'a str,
}

/// Takes the first field from a shape.
fn next_field<'a>(shape: &mut &'a str) -> Option<Field<'a>> {
    let text = shape.trim_start();
    if text.is_empty() {
        return None;
    }
    let (mut since, mut until, mut kind) = (0, i16::MAX, text);
    let end_of_head = text.find([' ', '[', '(', '{']).unwrap_or(text.len());
    if let Some((versions, _)) = text[..end_of_head].split_once(':') {
        kind = &text[versions.len() + 1..];
        let number = |text: &str| text.parse().expect("a shape's version");
        match (versions.strip_suffix('+'), versions.split_once('-')) {
            (Some(first), _) => since = number(first),
            (None, Some(("", last))) => until = number(last),
            (None, Some((first, last))) => (since, until) = (number(first), number(last)),
            (None, None) => unreachable!("a shape's versions are a range"),
        }
    }
    let end = match kind.as_bytes()[0] {
        open @ (b'[' | b'(' | b'{') => {
            let mut depth = 0;
            let closes = |(_, byte): &(usize, u8)| {
                depth += i32::from(matches!(byte, b'[' | b'(' | b'{')) - i32::from(matches!(byte, b']' | b')' | b'}'));
                depth == 0
            };
            kind.bytes().enumerate().find(closes).unwrap_or_else(|| panic!("{} is not closed", char::from(open))).0 + 1
        }
        _ => kind.find(' ').unwrap_or(kind.len()),
    };
    *shape = &kind[end..];
    Some(Field { since, until, kind: &kind[..end] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{APIS, decodes};
    use proptest::prelude::*;

    /// A body of a shape, its lengths and values taken from `seed`.
    struct Made<'a> {
        version: i16,
        flexible: bool,
        seed: &'a mut dyn Iterator<Item = u8>,
        out: Vec<u8>,
    }

    impl Made<'_> {
        fn next(&mut self) -> u8 {
            self.seed.next().unwrap_or(0)
        }

        fn length(&mut self, size: usize, len: usize) {
            match (self.flexible, size) {
                (true, _) => self.out.push(len as u8 + 1),
                (false, 2) => self.out.extend((len as i16).to_be_bytes()),
                (false, _) => self.out.extend((len as i32).to_be_bytes()),
            }
        }

        fn structure(&mut self, mut shape: &str) {
            while let Some(field) = next_field(&mut shape) {
                if (field.since..=field.until).contains(&self.version) {
                    self.field(field.kind);
                }
            }
            if self.flexible {
                self.out.push(0);
            }
        }

        fn field(&mut self, kind: &str) {
            match kind.as_bytes()[0] {
                text @ (b's' | b'y') => {
                    let len = usize::from(self.next() % 5);
                    self.length(if text == b's' { 2 } else { 4 }, len);
                    self.out.extend(std::iter::repeat_n(b'x', len));
                }
                open @ (b'[' | b'(') => {
                    let count = usize::from(self.next() % 3);
                    self.length(4, count);
                    for _ in 0..count {
                        let inner = &kind[1..kind.len() - 1];
                        if open == b'[' { self.structure(inner) } else { self.field(inner) }
                    }
                }
                b'{' if self.next().is_multiple_of(2) => self.out.push(0xff),
                b'{' => {
                    self.out.push(1);
                    self.structure(&kind[1..kind.len() - 1]);
                }
                _ => {
                    let size: usize = kind.parse().unwrap();
                    self.out.extend(std::iter::repeat_n(0, size));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_has_its_shape_is_decoded_to_the_last_byte_and_nothing_shorter_holds(seed in prop::collection::vec(any::<u8>(), 40)) {
            for api in APIS {
                for version in api.min..=api.max {
                    let (flexible_since, shape) = of(api.key).unwrap_or_else(|| panic!("{:?} has no shape", api.key));
                    let flexible = version >= flexible_since;
                    let mut made = Made { version, flexible, seed: &mut seed.iter().copied(), out: Vec::new() };
                    made.structure(shape);
                    let body = made.out;
                    prop_assert!(holds(api.key, version, &body), "{:?} version {version}: {body:?}", api.key);
                    prop_assert_eq!(decodes(api.key, version, &body), Some(0), "{:?} version {}: {:?}", api.key, version, &body);
                    for len in 0..body.len() {
                        prop_assert!(!holds(api.key, version, &body[..len]), "{:?} version {version}, {len} bytes", api.key);
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_that_claims_more_than_there_is_does_not_hold() {
        let mut produce = vec![0xff, 0xff, 0, 1, 0, 0, 0, 1];
        produce.extend(0x7fff_ffff_i32.to_be_bytes());
        produce.extend([0; 100]);
        assert!(!holds(ApiKey::Produce, 8, &produce));
        // Each is one byte, and there are enough bytes for all of them: it is their number that is too large.
        let mut names = vec![0; 4];
        names[..4].copy_from_slice(&(ELEMENTS_MAX as i32 + 1).to_be_bytes());
        names.extend(std::iter::repeat_n(0, 2 * ELEMENTS_MAX + 2));
        assert!(!holds(ApiKey::DeleteGroups, 0, &names));
    }
}
