//! `millrace simulate opcua`: the press shop of the demo, open to everybody on the loopback.

use super::troubles::{Troubles, until_the_end};
use crate::say::{say, say_part};
use anyhow::{Result, bail};
use millrace_config::Period;
use millrace_opcua_sim::{NAMESPACE, Shop};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Where the server listens. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4840")]
    listen: SocketAddr,
    /// Presses in the shop.
    #[arg(long, value_name = "N", default_value_t = 4)]
    presses: usize,
    /// How often the presses' values change.
    #[arg(long, value_name = "PERIOD", default_value = "100ms")]
    changes: Period,
    /// So many doubles in the folder Load, which change all at once ten times a second.
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: usize,
    /// A folder for certificates: offers every security policy beside None, and trusts every client.
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// What goes wrong, in turn: breakdown, bad, burst, restart, freeze.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<Fault>,
    #[command(flatten)]
    troubles: Troubles,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Fault {
    /// A press stops with a fault: its force turns bad, an alarm is raised.
    Breakdown,
    /// One node has a bad status and no value.
    Bad,
    /// More values at once than a queue holds.
    Burst,
    /// The server comes back without its sessions, its namespaces in another order.
    Restart,
    /// Connections stay open and say nothing.
    Freeze,
}

/// How long a fault lasts.
const LASTS: Duration = Duration::from_secs(5);

pub async fn simulate(options: Options) -> Result<ExitCode> {
    let Options { listen, presses, changes, load, pki, faults, troubles } = options;
    if !(1..=1_000).contains(&presses) || load > 100_000 {
        bail!("from 1 to 1000 presses, and at most 100000 doubles of load");
    }
    let shop = millrace_opcua_sim::Options { listen, presses, every: changes.0, load, pki, ..millrace_opcua_sim::Options::default() };
    let shop = Arc::new(tokio::task::block_in_place(|| Shop::start(shop))?);
    say!("an OPC UA server at {} with {presses} presses; for the tree: millrace browse opcua {0}", shop.endpoint());
    say_part!("{}", yaml(&shop.endpoint(), presses));
    let mut turn = 0;
    until_the_end(&troubles, || {
        let fault = (!faults.is_empty()).then(|| (faults[turn % faults.len()], turn % presses + 1));
        turn += 1;
        let shop = shop.clone();
        async move {
            match fault {
                Some((fault, press)) => tokio::task::block_in_place(|| inflict(&shop, fault, press)).map(Some),
                None => Ok(None),
            }
        }
    })
    .await
}

/// Makes a fault happen now, and its end later.
fn inflict(shop: &Arc<Shop>, fault: Fault, press: usize) -> Result<String> {
    let later = |end: Box<dyn FnOnce(&Shop) + Send>| {
        let shop = shop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LASTS).await;
            tokio::task::block_in_place(|| end(&shop));
        });
    };
    let (node, secs) = (format!("Press{press}.Temp"), LASTS.as_secs());
    Ok(match fault {
        Fault::Breakdown => {
            shop.breakdown(press)?;
            later(Box::new(move |shop| drop(shop.repair(press))));
            format!("press {press} breaks down for {secs} s")
        }
        Fault::Bad => {
            shop.fail(&node, millrace_opcua_sim::BAD_DEVICE_FAILURE)?;
            let said = format!("{node} has a bad status for {secs} s");
            later(Box::new(move |shop| drop(shop.heal(&node))));
            said
        }
        Fault::Burst => {
            shop.burst(&node, 1..5_001)?;
            format!("{node} has 5000 values at once")
        }
        Fault::Restart => {
            shop.restart(&["urn:millrace:another-namespace"])?;
            "the server was restarted; its namespaces have other numbers".to_owned()
        }
        Fault::Freeze => {
            shop.freeze()?;
            later(Box::new(Shop::thaw));
            format!("the server says nothing for {secs} s")
        }
    })
}

/// What reads the presses, to paste.
fn yaml(endpoint: &str, presses: usize) -> String {
    let mut text = format!(
        "\nto paste:\n\n\
         topics:\n  telemetry: {{format: avro, schema: telemetry}}\n\n\
         sources:\n  presses:\n    type: opcua\n    endpoint: {endpoint}\n    namespaces: {{p: \"{NAMESPACE}\"}}\n    topic: telemetry\n    \
         groups:\n      - every: 250ms\n        sampling: 100ms\n        tags:\n"
    );
    for press in 1..=presses.min(4) {
        for (tag, node) in [("temperature", "Temp"), ("force", "Force"), ("state", "State"), ("strokes", "Strokes")] {
            text += &format!("          press-{press}/{tag}: p:s=Press{press}.{node}\n");
        }
    }
    text + "\n"
}
