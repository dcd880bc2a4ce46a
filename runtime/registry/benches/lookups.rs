//! Lookups a second: in the client's memory, and of the embedded registry over HTTP on loopback.
//!
//! `cargo bench -p millrace-registry`. The floor is 5,000 a second.

use millrace_registry::{Client, Kind, Level, Registry, Schema, Settings, embedded};
use std::sync::Arc;
use std::time::Instant;

const LOOKUPS: u32 = 20_000;
const AT_ONCE: u32 = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio starts");
    runtime.block_on(async {
        let bound = embedded::serve(([127, 0, 0, 1], 0).into(), Registry::in_memory(Level::Backward), None).await.expect("a port is free");
        let url = format!("http://{bound}");
        let client = Client::new(Settings::new(&url)).expect("a client");
        let schema = Schema::new(Kind::Avro, r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#);
        let id = client.register("bench-value", &schema).await.expect("it is registered");

        let began = Instant::now();
        for _ in 0..LOOKUPS {
            client.schema(id).await.expect("it is known");
        }
        report("client, in memory", began);
        let began = Instant::now();
        for _ in 0..LOOKUPS {
            client.register("bench-value", &schema).await.expect("it is known");
        }
        report("client, registered before", began);

        // The other side: what a registry answers to clients that don't know the schema yet.
        let client = Arc::new(client);
        let began = Instant::now();
        let askers = (0..AT_ONCE).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..LOOKUPS / AT_ONCE {
                    client.version("bench-value", Some(1)).await.expect("it is there");
                }
            })
        });
        for asker in askers.collect::<Vec<_>>() {
            asker.await.expect("it asks to the end");
        }
        report("embedded registry, over HTTP", began);
    });
}

fn report(what: &str, began: Instant) {
    println!("{what:32} {:>12.0} lookups/s", f64::from(LOOKUPS) / began.elapsed().as_secs_f64());
}
