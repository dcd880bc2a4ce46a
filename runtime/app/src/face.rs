//! Millrace's own state as an OPC UA server, where the file asks for it and the program has it.

use crate::alarm;
use anyhow::Result;
use millrace_config::factory::Factory;
use millrace_config::{Place, Problems};
use millrace_console::Damage;
use millrace_engine::Engine;
use std::sync::Arc;

/// Whether this program can do what the file asks for.
pub fn check(factory: &Factory, problems: &mut Problems) {
    if factory.opcua_server.listen.is_some() && !cfg!(feature = "opcua-server") {
        problems
            .error(Place::NONE, "`opcua_server` is set, and this program was built without that server")
            .help("take a package with everything in it, or build it with `--features opcua-server`");
    }
}

/// A running one; it ends when it is dropped.
#[cfg(feature = "opcua-server")]
pub type Face = millrace_opcua_server::Server;
#[cfg(not(feature = "opcua-server"))]
pub type Face = ();

/// Starts it; `None`: the file asks for none.
///
/// Errors: its address is taken, or its certificate can't be made.
#[cfg(feature = "opcua-server")]
pub async fn start(factory: &Factory, engine: &Arc<Engine>, damage: Damage, alarms: Option<Arc<alarm::Watch>>) -> Result<Option<Face>> {
    use millrace_opcua_server::{Options, Server, Snapshot};
    let Some(options) = Options::of(&factory.opcua_server, &factory.data_dir) else { return Ok(None) };
    let engine = engine.clone();
    let look = move || {
        let report = engine.report();
        let troubles = millrace_console::troubles(&report, &damage());
        let alarms = alarms.as_ref().map_or_else(Vec::new, |alarms| alarms.standing());
        Snapshot { report, troubles, alarms, version: crate::release::VERSION }
    };
    let server = Server::start(options, Arc::new(look)).await?;
    tracing::info!(endpoint = %format!("opc.tcp://{}", server.address), "the OPC UA server of Millrace's own state answers");
    Ok(Some(server))
}

#[cfg(not(feature = "opcua-server"))]
#[allow(clippy::unused_async, reason = "as where it is built in")]
pub async fn start(_: &Factory, _: &Arc<Engine>, _: Damage, _: Option<Arc<alarm::Watch>>) -> Result<Option<Face>> {
    Ok(None)
}
