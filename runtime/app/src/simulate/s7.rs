//! `millrace simulate s7`: an oven that makes parts, open to everybody on the loopback.

use super::troubles::{Troubles, until_the_end};
use crate::say::{say, say_part};
use anyhow::{Context, Result, bail};
use millrace_config::Period;
use millrace_s7_sim::server::Limits;
use millrace_s7_sim::{Kind, Oven};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Where the CPU listens. A CPU's own port is 102, which wants privileges. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1102")]
    listen: SocketAddr,
    /// From one part to the next.
    #[arg(long, value_name = "PERIOD", default_value = "5s")]
    parts: Period,
    /// How long a part waits for its acknowledgement before the oven goes on without.
    #[arg(long, value_name = "PERIOD", default_value = "30s")]
    ack_within: Period,
    /// The largest PDU it agrees on.
    #[arg(long, value_name = "BYTES", default_value_t = 240)]
    pdu: u16,
    /// REALs in DB100, which all change every second: a load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: u16,
    /// What goes wrong, in turn: cut, silence, stop, short, refuse, heal.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<Kind>,
    #[command(flatten)]
    troubles: Troubles,
}

pub async fn simulate(options: Options) -> Result<ExitCode> {
    let Options { listen, parts, ack_within, pdu, load, faults, troubles } = options;
    if !(112..=960).contains(&pdu) || parts.0 < Duration::from_millis(10) {
        bail!("--pdu is from 112 to 960, --parts at least 10ms");
    }
    if load > 16_000 {
        bail!("--load is at most 16000");
    }
    let limits = Limits { pdu, ..Limits::default() };
    let oven =
        millrace_s7_sim::Options { part_every: parts.0, ack_within: ack_within.0, limits, load, ..millrace_s7_sim::Options::at(listen) };
    let oven = Oven::start(oven).await.with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    say!("an oven with an S7 CPU at {} (rack 0, slot 1, PDU {pdu})", oven.addr());
    say_part!("{}", yaml(oven.addr()));
    let mut turn = 0;
    until_the_end(&troubles, || {
        let fault = (!faults.is_empty()).then(|| faults[turn % faults.len()]);
        turn += 1;
        if let Some(fault) = fault {
            oven.inflict(fault);
        }
        async move { Ok(fault.map(|fault| fault.to_string())) }
    })
    .await
}

/// What reads all of it, to paste.
fn yaml(addr: SocketAddr) -> String {
    format!(
        "\nto paste:\n\n\
         floor: {{writes: allowed}}   # for the acknowledgement of parts; leave both out to only watch\n\n\
         topics:\n  telemetry: {{format: avro, schema: telemetry}}\n  parts: {{format: json}}\n\n\
         sources:\n  oven:\n    type: s7\n    endpoint: {addr}\n    at: paint/oven\n    topic: telemetry\n    groups:\n\
         \x20     - every: 100ms\n        tags: {{zone1: {{address: \"DB1.DBD0:REAL\", unit: degC}}, burner: DB1.DBX4.0, part_done: DB1.DBX4.1, setpoint: {{address: \"DB1.DBD8:REAL\", writable: true}}}}\n\
         \x20     - trigger: {{tag: part_done, ack: part_ack}}\n        record: {{topic: parts, key: \"{{serial}}\"}}\n\
         \x20       tags: {{serial: \"DB1.DBB12:STRING[18]\", number: \"DB1.DBD32:DINT\", peak: \"DB1.DBD36:REAL\", finished: \"DB1.DBB40:DTL\", part_ack: {{address: DB1.DBX60.0, writable: true}}}}\n\n"
    )
}
