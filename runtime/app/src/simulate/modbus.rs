//! `millrace simulate modbus`: meters and a drive behind a gateway.

use super::troubles::{Troubles, until_the_end};
use crate::say::{say, say_part};
use anyhow::{Context, Result, bail};
use millrace_modbus_sim::{Faults, Options as GatewayOptions, Plant};
use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// Where the gateway listens. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5020")]
    listen: SocketAddr,
    /// Power meters, from unit 1 on; the drive is behind them.
    #[arg(long, value_name = "N", default_value_t = 4)]
    meters: u8,
    /// More measurements of each meter, f32 in its input registers from 1000 on: a load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: u16,
    /// RTU frames, as a serial server in transparent mode sends them, instead of Modbus TCP.
    #[arg(long)]
    rtu: bool,
    /// Faults now and then: a dead meter and a slow one, a gateway that closes the connection after each answer.
    #[arg(long)]
    faults: bool,
    #[command(flatten)]
    troubles: Troubles,
}

pub async fn simulate(options: Options) -> Result<ExitCode> {
    let Options { listen, meters, load, rtu, faults, troubles } = options;
    if !(1..=200).contains(&meters) {
        bail!("--meters is from 1 to 200");
    }
    if load > 10_000 {
        bail!("--load is at most 10000");
    }
    let gateway = GatewayOptions { listen, is_rtu: rtu, is_parallel: false };
    let plant =
        Plant::start(gateway, meters).await.with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    if load > 0 {
        plant.load(load);
    }
    say!(
        "a Modbus gateway at {}, with {meters} meters (units 1 to {meters}) and a drive (unit {})",
        plant.gateway.endpoint(),
        plant.drive()
    );
    say_part!("{}", yaml(&plant));
    let mut turn = 0;
    until_the_end(&troubles, || {
        turn += 1;
        let what = match (faults, turn % 3) {
            (false, _) => None,
            (true, 1) => {
                plant.trouble();
                Some("one meter is dead, another takes 300 ms")
            }
            (true, 2) => {
                plant.heal();
                plant.gateway.inflict(Faults { closes: true, ..Faults::default() });
                Some("the gateway closes the connection after each answer")
            }
            (true, _) => {
                plant.heal();
                Some("all is well")
            }
        };
        async move { Ok(what.map(str::to_owned)) }
    })
    .await
}

/// What reads all of it, to paste.
fn yaml(plant: &Plant) -> String {
    let mut text = format!(
        "\nto paste:\n\n\
         topics:\n  telemetry: {{format: avro, schema: telemetry}}\n\n\
         templates:\n  meter:\n    groups:\n      - every: 1s\n        tags:\n          u1: {{address: \"input:0\", as: f32, unit: V}}\n          \
         i1: {{address: \"input:6\", as: f32, unit: A}}\n          \
         power: {{address: \"input:52\", as: i32, order: CDAB, unit: W, null_values: [0x80000000]}}\n      \
         - {{every: 10s, tags: {{energy: {{address: \"holding:800\", as: f64, order: CDAB, unit: kWh, kind: counter, max: 1000000}}}}}}\n\n\
         sources:\n  hall:\n    type: modbus\n    endpoint: {}\n    topic: telemetry\n    bus: {{timeout: 800ms}}\n    devices:\n",
        plant.gateway.endpoint()
    );
    for unit in 1..plant.drive() {
        text += &format!("      m{unit:02}: {{use: meter, unit_id: {unit}, at: utilities/m{unit:02}}}\n");
    }
    text += &format!(
        "      drive:\n        unit_id: {}\n        at: body/drive\n        groups:\n          - every: 500ms\n            tags:\n              \
         speed: {{address: \"holding:100\", as: f32, order: CDAB, unit: m/s}}\n              door_open: coil:7\n              \
         setpoint: {{address: \"holding:110\", as: f32, order: CDAB, unit: m/s, writable: true}}\n              \
         word: {{address: \"holding:120\", bits: {{0: ready, 3: door}}}}\n\n",
        plant.drive()
    );
    text
}
