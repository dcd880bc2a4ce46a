//! Kafka's clients and tools against Apache Kafka and against the embedded broker: whatever they see of one they see of the other.
//!
//! The programs are `tests/peers/clients/*`; `millrace_tests::clients` runs and compares them. Here the libraries and tools; `kcat` is a client as
//! old as a laptop's, and in `restarts` the embedded broker is killed under its clients.

mod kcat;
mod restarts;

use millrace_tests::Program;

#[test]
fn librdkafka_sees_the_same_records_transactions_and_times() {
    Program::Librdkafka.agree(&[
        "codecs",
        "records",
        "partitions",
        "idempotence",
        "transactions",
        "transactional_offsets",
        "times",
        "deleted_records",
    ]);
}

#[test]
fn librdkafka_sees_the_same_groups() {
    Program::Librdkafka.agree(&["groups", "commits", "static_members", "group_admin"]);
}

#[test]
fn librdkafka_sees_the_same_topics_configurations_and_errors() {
    Program::Librdkafka.agree(&["topics", "configs", "cluster", "errors"]);
}

#[test]
fn librdkafka_sees_the_same_compacted_topic() {
    Program::Librdkafka.agree(&["compaction"]);
}

#[test]
fn kafka_python_sees_the_same() {
    Program::KafkaPython.agree(&["codecs", "transactions", "groups", "times", "admin"]);
}

#[test]
fn kafkajs_sees_the_same() {
    Program::Kafkajs.agree(&["codecs", "transactions", "groups", "admin"]);
}

#[test]
fn kafkas_own_tools_see_the_same() {
    Program::Java.agree(&["topics", "configs", "console", "loads", "groups", "records", "transactions", "members", "cluster"]);
}
