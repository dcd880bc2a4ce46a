//! The partitions of a sink that keeps positions with its data: how far each is held by the target, and how far it was read.
//!
//! ```text
//! assign   what the target holds ──▶ held
//! skip     what Kafka has no more ─▶ next
//! write    behind the last record ─▶ next
//! flush    moves: held -> next ────▶ one commit with the data, which compares where each begins ──▶ held
//! ```

use millrace_contract::{Failure, Offset, Partition, Records};
use std::collections::HashMap;

/// What went wrong with a target that keeps positions, and so what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It may work later.
    #[error("{0}")]
    Away(String),
    /// A person must act.
    #[error("{0}")]
    Refused(String),
    /// Somebody else moved these positions: what was read since must be read again.
    #[error("{0}")]
    Fenced(String),
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Away(text) | TargetError::Fenced(text) => Self::Reconnect(text),
            TargetError::Refused(text) => Self::Blocked(text),
        }
    }
}

/// What is known of the assigned partitions.
#[derive(Debug, Default)]
pub struct Parts(HashMap<Partition, Part>);

#[derive(Debug)]
struct Part {
    id: String,
    held: Option<Offset>,
    next: Option<Offset>,
}

/// A position that a commit moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// What the target calls the position.
    pub id: String,
    /// Where it must be; `None`: it is not there yet.
    pub from: Option<Offset>,
    pub to: Offset,
}

impl Parts {
    /// Takes partitions on: the name of each one's position, and where the target has it.
    pub fn assign(&mut self, parts: &[Partition], ids: Vec<String>, held: &[Option<Offset>]) {
        for ((part, id), held) in parts.iter().zip(ids).zip(held) {
            self.0.insert(part.clone(), Part { id, held: *held, next: None });
        }
    }

    pub fn revoke(&mut self, parts: &[Partition]) {
        self.0.retain(|part, _| !parts.contains(part));
    }

    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.0.keys()
    }

    /// The names of all positions.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|part| part.id.as_str())
    }

    /// Records were read. Offsets have gaps: the position is behind the last one, whatever their number.
    pub fn read(&mut self, records: &Records) {
        for (index, name) in records.parts.iter().enumerate() {
            let last = records.records.iter().rev().find(|record| record.part as usize == index);
            if let (Some(record), Some(part)) = (last, self.0.get_mut(name)) {
                part.next = Some(record.offset + 1);
            }
        }
    }

    /// What lies below these offsets is gone from Kafka: the next commit moves the positions there, though nothing be read.
    pub fn skip(&mut self, below: &[(Partition, Offset)]) {
        for (name, offset) in below {
            if let Some(part) = self.0.get_mut(name) {
                part.next = part.next.max(Some(*offset));
            }
        }
    }

    /// What a commit has to move, in one order whoever commits: two of them never wait for each other in a circle.
    pub fn moves(&self) -> Vec<Move> {
        let moved = self.0.values().filter_map(|part| {
            let to = part.next.filter(|next| part.held.is_none_or(|held| held < *next))?;
            Some(Move { id: part.id.clone(), from: part.held, to })
        });
        let mut moves: Vec<Move> = moved.collect();
        moves.sort_by(|a, b| a.id.cmp(&b.id));
        moves
    }

    /// They are committed; what Kafka may be told.
    pub fn committed(&mut self, moves: &[Move]) -> Vec<(Partition, Offset)> {
        let told = self.0.iter_mut().filter_map(|(partition, part)| {
            let to = moves.iter().find(|one| one.id == part.id)?.to;
            part.held = Some(to);
            Some((partition.clone(), to))
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_contract::Record;
    use millrace_schemas::Span;

    fn part(partition: i32) -> Partition {
        Partition { topic: "t".into(), partition }
    }

    /// Records of partitions 0 and 1 at these offsets.
    fn records(at: &[(u32, Offset)]) -> Records {
        let record = |&(part, offset): &(u32, Offset)| Record {
            part,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Span::EMPTY,
            prefix: 0,
        };
        Records { parts: vec![part(0), part(1)], records: at.iter().map(record).collect(), ..Records::default() }
    }

    #[test]
    fn a_commit_moves_what_was_read_beyond_what_is_held_and_no_more() {
        let mut parts = Parts::default();
        parts.assign(&[part(0), part(1)], vec!["b".into(), "a".into()], &[Some(10), None]);
        assert!(parts.moves().is_empty(), "nothing was read");
        parts.read(&records(&[(0, 10), (1, 3), (0, 17)]));
        let moves = parts.moves();
        assert_eq!(moves.iter().map(|one| (one.id.as_str(), one.from, one.to)).collect::<Vec<_>>(), [("a", None, 4), ("b", Some(10), 18)]);
        let mut told = parts.committed(&moves);
        told.sort_by_key(|(part, _)| part.partition);
        assert_eq!(told, [(part(0), 18), (part(1), 4)]);
        assert!(parts.moves().is_empty(), "all of it is held");
        parts.read(&records(&[(0, 5)]));
        assert!(parts.moves().is_empty(), "a position never goes back");
        parts.skip(&[(part(0), 40), (part(1), 2), (part(7), 5)]);
        let moves = parts.moves();
        assert_eq!(moves.iter().map(|one| (one.from, one.to)).collect::<Vec<_>>(), [(Some(18), 40)], "what Kafka has no more is passed");
        assert_eq!(parts.committed(&moves), [(part(0), 40)]);
        parts.read(&records(&[(1, 4)]));
        parts.revoke(&[part(1)]);
        assert!(parts.moves().is_empty(), "what was taken away is another's");
        assert_eq!((parts.ids().count(), parts.partitions().count()), (1, 1));
    }
}
