//! The schema registry of a factory: embedded, or a client of somebody's.

use anyhow::{Context, Result};
use millrace_config::Factory;
use millrace_config::factory::{Compatibility, RegistryLogin};
use millrace_registry::{Client, Level, Registry, Settings, embedded};
use std::net::SocketAddr;
use std::sync::Arc;

/// The ids a registry gave, below the data directory.
const MEMORY: &str = "registry.json";
const EMBEDDED: &str = "embedded";

/// The embedded registry and where it listens.
pub struct Embedded {
    pub registry: Arc<Registry>,
    pub listen: SocketAddr,
}

/// Starts the embedded registry, where the factory says so; it reads its topic meanwhile.
pub async fn start(factory: &Factory) -> Result<Option<Embedded>> {
    if factory.schemas.registry.value != EMBEDDED {
        return Ok(None);
    }
    let level = match factory.schemas.compatibility {
        Compatibility::None => Level::None,
        Compatibility::Backward => Level::Backward,
        Compatibility::BackwardTransitive => Level::BackwardTransitive,
        Compatibility::Forward => Level::Forward,
        Compatibility::ForwardTransitive => Level::ForwardTransitive,
        Compatibility::Full => Level::Full,
        Compatibility::FullTransitive => Level::FullTransitive,
    };
    let registry = Registry::start(millrace_engine::cluster::settings(factory), level).context("cannot start the schema registry")?;
    let listen = factory.schemas.listen.0;
    match embedded::serve(listen, registry.clone(), login(factory).as_ref()).await {
        Ok(listen) => Ok(Some(Embedded { registry, listen })),
        Err(error) => {
            registry.stop().await;
            Err(error).context("cannot serve the schema registry (schemas.listen)")
        }
    }
}

/// The client of the factory's registry, whichever it is; `None` where there is none. It sends nothing yet.
/// `embedded`: where the embedded one listens, in this process or another.
pub fn client(factory: &Factory, embedded: SocketAddr) -> Result<Option<Arc<Client>>> {
    if factory.schemas.registry.value == "none" {
        return Ok(None);
    }
    Ok(Some(Arc::new(Client::new(settings(factory, reachable(embedded)))?)))
}

fn settings(factory: &Factory, embedded: SocketAddr) -> Settings {
    let schemas = &factory.schemas;
    let mut settings = match schemas.registry.value.as_str() {
        EMBEDDED => Settings::new(&format!("http://{embedded}")),
        urls => Settings::new(urls),
    };
    settings.memory = Some(factory.data_dir.join(MEMORY));
    settings.login = login(factory);
    let tls = schemas.tls.clone();
    settings.tls = millrace_tls::ClientTls { ca: tls.ca, cert: tls.cert, key: tls.key, server_name: None };
    settings
}

/// The login that the registry asks for: somebody's of us, the embedded one of everybody.
fn login(factory: &Factory) -> Option<millrace_registry::RegistryLogin> {
    match factory.schemas.login.as_ref().map(|login| login.value.clone())? {
        RegistryLogin { user: Some(user), password: Some(password), .. } => {
            Some(millrace_registry::RegistryLogin::Basic { user, password })
        }
        RegistryLogin { token: Some(token), .. } => Some(millrace_registry::RegistryLogin::Token(token)),
        _ => None,
    }
}

/// Where we reach what listens at an address ourselves.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(_) if listen.ip().is_unspecified() => ([127, 0, 0, 1], listen.port()).into(),
        SocketAddr::V6(_) if listen.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, listen.port()).into(),
        given => given,
    }
}
