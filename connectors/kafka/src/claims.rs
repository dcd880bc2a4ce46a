//! Who copies which partitions, said at the target: so that a runtime that only seemed dead is refused there, whatever it still has to send.
//!
//! ```text
//! topic millrace.replication
//! key    ["ORIGIN","GROUP","TOPIC",PARTITION,"by",TRANSACTIONAL ID]      value {}, or a tombstone where it was given back or ended
//! ```
//!
//! Who takes a partition over claims it, then looks who else does, and ends their transactions; only then it reads the positions. Of two that think they
//! have one partition the later one to look sees the other's claim, and nothing is committed twice. Where one runtime copies alone, its transactional id
//! does all this by itself.

use crate::names::POSITIONS;
use crate::sink::{Instance, PATIENCE, PATIENCE_AT_END, now_ms};
use crate::target::failure;
use millrace_contract::{Failure, Partition};
use millrace_kafka::{KafkaError, Message, Settings, fence_out, read_topic_now};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

const MARK: &str = "by";
/// How long a call that fences may take.
const FENCING: Duration = Duration::from_secs(10);

/// By transactional id: what its owner copies, or copied and did not give back.
type Claims = BTreeMap<String, HashSet<Partition>>;

fn key(origin: &str, group: &str, part: &Partition, id: &str) -> Vec<u8> {
    serde_json::to_vec(&(origin, group, &*part.topic, part.partition, MARK, id)).unwrap_or_default()
}

/// The claim that a record makes or, as a tombstone, takes back; `None`: it is another kind of record, or another's.
fn claim(key: &[u8], origin: &str, group: &str) -> Option<(String, Partition)> {
    let (of, by, topic, partition, mark, id) = serde_json::from_slice::<(String, String, String, i32, String, String)>(key).ok()?;
    (of == origin && by == group && mark == MARK).then(|| (id, Partition { topic: topic.into(), partition }))
}

/// All claims of an origin and group, those of transactions that are open included: nobody is waited for.
fn read(target: &Settings, origin: &str, group: &str) -> Result<Claims, KafkaError> {
    let (mut claims, mut doubtful) = (Claims::new(), Claims::new());
    let decided = |message: Message<'_>| {
        if let Some((id, part)) = message.key().and_then(|key| claim(key, origin, group)) {
            let of_id = claims.entry(id).or_default();
            if message.value().is_some() {
                of_id.insert(part)
            } else {
                of_id.remove(&part)
            };
        }
    };
    let open = |message: Message<'_>| {
        let found = message.key().filter(|_| message.value().is_some()).and_then(|key| claim(key, origin, group));
        if let Some((id, part)) = found {
            doubtful.entry(id).or_default().insert(part);
        }
    };
    read_topic_now(target, POSITIONS, PATIENCE, decided, open)?;
    doubtful.into_iter().for_each(|(id, parts)| claims.entry(id).or_default().extend(parts));
    Ok(claims)
}

impl Instance {
    /// Claims partitions, and ends the transactions of every other runtime that claims one of them.
    pub(crate) fn claim(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        if !self.shares() || parts.is_empty() {
            return Ok(());
        }
        let own = self.replication.transactional_id();
        self.write_claims(parts.iter().map(|part| (part, own.as_str(), true)), PATIENCE)?;
        let replication = self.replication.clone();
        let claims = read(&replication.target, &replication.names.origin, &replication.carrying.name);
        let claims = claims.map_err(|e| failure("cannot read at the target who copies what", &e))?;
        let mut ended = Vec::new();
        for (id, theirs) in claims.iter().filter(|(id, theirs)| **id != own && parts.iter().any(|part| theirs.contains(part))) {
            let fenced = fence_out(&replication.target, id, FENCING);
            fenced.map_err(|e| failure(&format!("cannot end the transactions of a runtime that copied before ({id})"), &e))?;
            tracing::info!(
                sink = replication.carrying.name,
                id,
                "took over from a runtime that has not given its partitions back: it is fenced"
            );
            ended.extend(parts.iter().filter(|part| theirs.contains(part)).map(|part| (part, id.as_str(), false)));
        }
        self.write_claims(ended, PATIENCE)
    }

    /// Gives partitions back: who takes them over has nobody to end.
    pub(crate) fn give_back(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        if !self.shares() || self.producer.is_none() && self.whole.is_none() {
            return Ok(());
        }
        let own = self.replication.transactional_id();
        self.write_claims(parts.iter().map(|part| (part, own.as_str(), false)), PATIENCE_AT_END)
    }

    /// Whether others may copy under other transactional ids.
    fn shares(&self) -> bool {
        self.replication.carrying.exactly_once && self.replication.runtime.is_some()
    }

    /// Makes claims (true) or takes them back, in a transaction of their own.
    fn write_claims<'a>(
        &mut self,
        claims: impl IntoIterator<Item = (&'a Partition, &'a str, bool)>,
        patience: Duration,
    ) -> Result<(), Failure> {
        let replication = self.replication.clone();
        let claims: Vec<_> = claims.into_iter().filter(|(part, ..)| !replication.names.stays(&part.topic)).collect();
        if claims.is_empty() {
            return Ok(());
        }
        // What is on its way goes with its own positions.
        self.finish(patience)?;
        self.begin()?;
        let record = |(part, id, is_made): (&Partition, &str, bool)| {
            (key(&replication.names.origin, &replication.carrying.name, part, id), is_made.then(|| b"{}".to_vec()))
        };
        let records: Vec<_> = claims.into_iter().map(record).collect();
        self.write_own(&records, now_ms())?;
        self.commit(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_by_its_own_origin_and_group_and_is_no_position() {
        let part = Partition { topic: "t".into(), partition: 3 };
        let bytes = key("acme.detroit", "g", &part, "id-a");
        assert_eq!(claim(&bytes, "acme.detroit", "g"), Some(("id-a".to_owned(), part.clone())));
        assert_eq!(claim(&bytes, "acme.detroit", "h"), None);
        let position = crate::positions::key("acme.detroit", "g", &part);
        assert_eq!(claim(&position, "acme.detroit", "g"), None);
    }
}
