//! End to end: real peers, the real binary. One test binary, because each one links librdkafka.
//!
//! A module per subject; `millrace_tests` (tests/src) is the harness. Tests share one Kafka (`Kafka::shared()`) and take names of their own for
//! topics (`kafka.topic("states")`), unless they hurt the broker.

mod commands;
mod contracts;
mod dead;
mod decoded;
mod demo;
mod drain;
mod embedded;
mod faults_kafka;
mod faults_runtime;
mod files;
mod input;
mod kafka_layer;
mod kafka_sinks;
mod load;
mod mqtt_sink;
mod mqtt_source;
mod opcua;
mod opcua_look;
mod opcua_secured;
mod opcua_shop;
mod peers;
mod registry;
mod secured;
mod simulate;
mod sparkplug;
mod writes;
