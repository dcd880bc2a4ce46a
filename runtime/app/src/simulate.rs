//! `millrace simulate`: one simulated device or broker alone, with faults, for people who try their own YAML.

mod erp;
mod modbus;
mod mqtt;
mod opcua;
mod s7;
mod troubles;

use anyhow::{Context, Result};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// An ERP: production orders by OData, confirmations back; it loses answers.
    Erp(erp::Options),
    /// A Modbus gateway with meters and a drive.
    Modbus(modbus::Options),
    /// An MQTT broker with assembly cells (JSON) and packaging machines (Sparkplug B).
    Mqtt(mqtt::Options),
    /// An OPC UA server with a press shop.
    Opcua(opcua::Options),
    /// An oven with an S7 CPU, which makes parts and waits for their acknowledgement.
    S7(s7::Options),
}

pub fn simulate(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start threads")?;
    match command {
        Command::Erp(options) => runtime.block_on(erp::simulate(options)),
        Command::Modbus(options) => runtime.block_on(modbus::simulate(options)),
        Command::Mqtt(options) => runtime.block_on(mqtt::simulate(options)),
        Command::Opcua(options) => runtime.block_on(opcua::simulate(options)),
        Command::S7(options) => runtime.block_on(s7::simulate(options)),
    }
}
