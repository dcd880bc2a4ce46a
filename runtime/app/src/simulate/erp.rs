//! `millrace simulate erp`: production orders come in and go their way, confirmations are taken, and some answers are lost.

use super::troubles::{Troubles, until_the_end};
use crate::say::{say, say_part};
use anyhow::{Context, Result, bail};
use millrace_config::Period;
use millrace_erp_sim::{Erp, Order};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Where the service listens. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// From one order to the next.
    #[arg(long, value_name = "PERIOD", default_value = "2s")]
    orders: Period,
    /// Every so many posts the answer is lost after the post was carried out; 0: none.
    #[arg(long, value_name = "POSTS", default_value_t = 5)]
    loses_every: u64,
    /// Request ids are kept, so that a repeat gets the first answer. Without it only a look-up tells.
    #[arg(long)]
    keeps_ids: bool,
    #[command(flatten)]
    troubles: Troubles,
}

pub async fn simulate(options: Options) -> Result<ExitCode> {
    let Options { listen, orders, loses_every, keeps_ids, troubles } = options;
    if orders.0 < Duration::from_millis(10) {
        bail!("--orders is at least 10ms");
    }
    let erp = Erp::listen(listen).await.with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    erp.set_troubles(millrace_erp_sim::Troubles { loses_every, keeps_ids, is_down: false });
    let erp = Arc::new(erp);
    say!("an ERP with production orders and confirmations at {}", erp.endpoint());
    say_part!("{}", yaml(&erp.endpoint()));
    let plant = erp.clone();
    let making = tokio::spawn(async move {
        let mut turn = tokio::time::interval(orders.0);
        for number in 0_u64.. {
            turn.tick().await;
            let now = millrace_schemas::Micros::now().as_millis();
            plant.with(|store| {
                store.put(Order::new(format!("{:012}", 1_000_000 + number), now));
                // The one before is done.
                if let Some(before) = number.checked_sub(1) {
                    store.put(Order { status: "confirmed".into(), ..Order::new(format!("{:012}", 1_000_000 + before), now) });
                }
            });
        }
    });
    let mut told = 0;
    let outcome = until_the_end(&troubles, || {
        let posted = erp.with(|store| store.confirmations.len());
        let news = (posted != told).then(|| format!("{posted} confirmations"));
        told = posted;
        async move { Ok(news) }
    })
    .await;
    making.abort();
    outcome
}

/// What reads all of it and posts back, to paste.
fn yaml(endpoint: &str) -> String {
    format!(
        "\nto paste:\n\n\
         topics:\n  orders: {{format: avro, compacted: true}}\n  confirmations: {{format: json}}\n\n\
         sources:\n  production-orders:\n    type: erp\n    endpoint: {endpoint}\n    topic: orders\n    entity_sets:\n\
         \x20     - {{name: ProductionOrders, every: 2s, watermark: modifiedAt, key: \"{{ID}}\"}}\n\n\
         sinks:\n  confirmations:\n    type: erp\n    topics: [confirmations]\n    endpoint: {endpoint}\n    entity_set: Confirmations\n\
         \x20   lookup: externalId\n    reply: confirmation-results\n\n"
    )
}
