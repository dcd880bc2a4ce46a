//! End to end: real peers, the real binary. One test binary, because each one links librdkafka.
//!
//! A module per subject; `millrace_tests` (tests/src) is the harness. Tests share one Kafka (`Kafka::shared()`) and take names of their own for
//! topics (`kafka.topic("states")`), unless they hurt the broker.

mod access;
mod alarms;
mod answers;
mod attack;
mod commands;
mod connect;
mod console;
mod contracts;
mod dead;
mod decoded;
mod demo;
mod drain;
mod embedded;
mod erp;
mod every_command;
mod exec;
mod faults_kafka;
mod faults_runtime;
mod files;
mod history;
mod influx;
mod input;
mod kafka_layer;
mod kafka_sinks;
mod lake;
mod lake_documents;
mod lake_replay;
mod lake_stores;
mod live;
mod live_socket;
mod load;
mod modbus;
mod mqtt_sink;
mod mqtt_source;
mod opcua;
mod opcua_commands;
mod opcua_limits;
mod opcua_look;
mod opcua_secured;
mod opcua_shop;
mod packaging;
mod peers;
mod plc;
mod registry;
mod reload;
mod replication;
mod secured;
mod simulate;
mod sparkplug;
mod sql_sink;
mod sqlweb;
mod told;
mod writes;
