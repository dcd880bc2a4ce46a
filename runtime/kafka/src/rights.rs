//! What the user who is logged in may do, as the cluster says itself: nothing is tried, nothing is changed.

use crate::admin::Admin;
use crate::error::KafkaError;
use crate::raw::rights::{self, Described};
use rdkafka::bindings::{rd_kafka_AclOperation_t as acl, rd_kafka_resp_err_t as code};
use std::collections::BTreeSet;

const TOPIC_DENIED: i32 = code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32;
const GROUP_DENIED: i32 = code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as i32;
const NOT_THERE: i32 = code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;

/// What Millrace does with a thing of Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    Read,
    Write,
    Create,
    Describe,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Create, Self::Describe];

    /// As `kafka-acls` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
        }
    }

    fn number(self) -> u32 {
        let operation = match self {
            Self::Read => acl::RD_KAFKA_ACL_OPERATION_READ,
            Self::Write => acl::RD_KAFKA_ACL_OPERATION_WRITE,
            Self::Create => acl::RD_KAFKA_ACL_OPERATION_CREATE,
            Self::Describe => acl::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        };
        operation as u32
    }
}

/// What is allowed on one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    Only(BTreeSet<Operation>),
    /// It may not even be looked at.
    Nothing,
    /// There is no such topic, or it may not be seen.
    NotThere,
    /// The cluster does not say: it knows no rights, or is none of Apache's.
    Untold,
}

impl Allowed {
    fn of(described: Described) -> Self {
        match (described.code, described.allowed) {
            (TOPIC_DENIED | GROUP_DENIED, _) => Self::Nothing,
            (NOT_THERE, _) => Self::NotThere,
            (0, Some(numbers)) => Self::numbers(&numbers),
            _ => Self::Untold,
        }
    }

    fn numbers(numbers: &[u32]) -> Self {
        Self::Only(Operation::ALL.into_iter().filter(|operation| numbers.contains(&operation.number())).collect())
    }

    /// Which of these operations are not allowed; of what is not told, none.
    pub fn missing(&self, wanted: &[Operation]) -> Vec<Operation> {
        let is_missing = |operation: &Operation| match self {
            Self::Only(allowed) => !allowed.contains(operation),
            Self::Nothing => true,
            Self::NotThere | Self::Untold => false,
        };
        wanted.iter().copied().filter(is_missing).collect()
    }
}

impl Admin {
    /// What is allowed on topics, in their order.
    ///
    /// Errors: the cluster can't be asked.
    pub fn allowed_on_topics(&self, topics: &[&str]) -> Result<Vec<Allowed>, KafkaError> {
        let mut described = self.asked(rights::of_topics(self.native(), topics, self.timeout()))?;
        let of = |name: &&str| {
            let at = described.iter().position(|one| one.name == **name);
            at.map_or(Allowed::Untold, |at| Allowed::of(described.swap_remove(at)))
        };
        Ok(topics.iter().map(of).collect())
    }

    /// What is allowed on a group of consumers.
    ///
    /// Errors: the cluster can't be asked.
    pub fn allowed_on_group(&self, group: &str) -> Result<Allowed, KafkaError> {
        match rights::of_group(self.native(), group, self.timeout()) {
            Ok(described) => Ok(Allowed::of(described)),
            Err(error) if error.code == GROUP_DENIED => Ok(Allowed::Nothing),
            Err(error) => self.asked(Err(error)),
        }
    }

    /// What is allowed on the cluster itself.
    ///
    /// Errors: the cluster can't be asked.
    pub fn allowed_on_cluster(&self) -> Result<Allowed, KafkaError> {
        let told = self.asked(rights::of_cluster(self.native(), self.timeout()))?;
        Ok(told.map_or(Allowed::Untold, |numbers| Allowed::numbers(&numbers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_what_is_not_told_is_not_missing() {
        let wanted = [Operation::Write, Operation::Describe];
        let of = |code, allowed: Option<&[u32]>| Allowed::of(Described { name: "t".into(), code, allowed: allowed.map(<[u32]>::to_vec) });
        assert_eq!(of(0, Some(&[3, 8, 99])).missing(&wanted), [Operation::Write]);
        assert_eq!(of(TOPIC_DENIED, None).missing(&wanted), wanted);
        assert_eq!(of(NOT_THERE, Some(&[])), Allowed::NotThere);
        assert!(of(0, None).missing(&wanted).is_empty());
    }
}
