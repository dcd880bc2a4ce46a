//! `millrace simulate mqtt`: the hall of the demo, its broker open to everybody on the loopback.

use super::troubles::{Troubles, until_the_end};
use crate::say::{say, say_part};
use anyhow::{Context, Result, bail};
use millrace_mqtt_sim::fault::{Kind, Turns};
use millrace_mqtt_sim::{Hall, hall};
use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// Where the broker listens; it asks for no password. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1883")]
    listen: SocketAddr,
    /// Assembly cells that publish JSON.
    #[arg(long, value_name = "N", default_value_t = 4)]
    cells: usize,
    /// Packaging machines behind a Sparkplug B edge node.
    #[arg(long, value_name = "N", default_value_t = 2)]
    packers: usize,
    /// Readings per second of each cell; a packaging machine makes half of them.
    #[arg(long, value_name = "R", default_value_t = 10.0)]
    rate: f64,
    /// The Sparkplug host without which the edge node stores and says nothing.
    #[arg(long, value_name = "ID")]
    primary_host: Option<String>,
    /// What goes wrong, in turn: cut, silence, death, burst, hostile.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<Kind>,
    /// The clients it befalls; without it cells and edge node in turn. Yours, too: `--on millrace-cells` cuts Millrace's own cable.
    #[arg(long, value_name = "CLIENT_ID", value_delimiter = ',')]
    on: Vec<String>,
    #[command(flatten)]
    troubles: Troubles,
}

pub async fn simulate(options: Options) -> Result<ExitCode> {
    let Options { listen, cells, packers, rate, primary_host, faults, on, troubles } = options;
    if cells > 1_000 || packers > 1_000 {
        bail!("at most 1000 cells and 1000 packaging machines");
    }
    if !(rate.is_finite() && (0.001..=1000.0).contains(&rate)) {
        bail!("--rate is from 0.001 to 1000");
    }
    let bounds = millrace_mqtt_sim::Bounds { connections: 256 + cells, sessions: 256 + cells, ..Default::default() };
    let equipment = millrace_mqtt_sim::Options {
        listen,
        cells,
        cell_rate: rate,
        packers,
        packer_rate: rate / 2.0,
        primary_host,
        at_rest: false,
        bounds,
    };
    let hall = Hall::start(equipment).await.with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    say!("an MQTT broker at {} (3.1.1 and 5, no password), with", hall.endpoint());
    for client in hall.clients() {
        say!("  {client}");
    }
    say_part!("{}", yaml(&hall.endpoint(), cells, packers));
    let clients = if on.is_empty() { hall.clients().map(str::to_owned).collect() } else { on };
    let mut turns = Turns::new(faults, clients);
    until_the_end(&troubles, || {
        let fault = turns.as_mut().map(Turns::take);
        if let Some(fault) = &fault {
            hall.inflict(fault);
        }
        async move { Ok(fault.map(|fault| fault.to_string())) }
    })
    .await
}

/// What reads all of it, to paste.
fn yaml(endpoint: &str, cells: usize, packers: usize) -> String {
    let mut text = format!(
        "\nto paste:\n\n\
         topics:\n  telemetry: {{format: avro, schema: telemetry}}\n  machine-state: {{format: json}}\n\n\
         sources:\n  hall:\n    type: mqtt\n    endpoint: {endpoint}\n    topic: telemetry\n    subscribe:\n"
    );
    if cells > 0 {
        text += "      - filter: cells/+/telemetry\n        payload: json\n        at: \"assembly/{1}\"\n        \
                 samples: {seq: /seq, torque: /torque/nm, angle: /angle/deg, temperature: /temperature}\n        time: {at: /ts, unit: ms}\n        \
                 qos: 1\n      - {filter: cells/+/state, payload: json, topic: machine-state, key: \"{1}\", qos: 1}\n";
    }
    if packers > 0 {
        let group = hall::GROUP;
        text += &format!("      - {{filter: spBv1.0/{group}/#, payload: sparkplug, at: \"{group}/{{device}}\", tag: \"{{metric}}\"}}\n");
    }
    text + "\n"
}
