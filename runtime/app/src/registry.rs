//! The schema registry of a factory: embedded, or a client of somebody's.

use crate::service;
use anyhow::{Context, Result};
use millrace_config::Factory;
use millrace_config::factory::{Compatibility, RegistryLogin};
use millrace_registry::{Client, Level, Registry, Settings, embedded};
use std::net::SocketAddr;
use std::sync::Arc;

/// The ids a registry gave, below the data directory.
const MEMORY: &str = "registry.json";

/// Starts the embedded registry, where the factory says so; the address it listens at. It reads its topic meanwhile.
pub async fn start(factory: &Factory) -> Result<Option<SocketAddr>> {
    if factory.schemas.registry.value != "embedded" {
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
    let registry = Registry::start(service::settings(factory), level).context("cannot start the schema registry")?;
    let bound = embedded::serve(factory.schemas.listen.0, registry).await.map_err(anyhow::Error::msg)?;
    Ok(Some(bound))
}

/// The client of the factory's registry, embedded or not; `None` where there is none. It sends nothing yet.
pub fn client(factory: &Factory) -> Result<Option<Arc<Client>>> {
    let schemas = &factory.schemas;
    let mut settings = match schemas.registry.value.as_str() {
        "none" => return Ok(None),
        "embedded" => Settings::new(&format!("http://{}", reachable(schemas.listen.0))),
        urls => Settings::new(urls),
    };
    settings.memory = Some(factory.data_dir.join(MEMORY));
    settings.login = match schemas.login.as_ref().map(|login| login.value.clone()) {
        Some(RegistryLogin { user: Some(user), password: Some(password), .. }) => {
            Some(millrace_registry::RegistryLogin::Basic { user, password })
        }
        Some(RegistryLogin { token: Some(token), .. }) => Some(millrace_registry::RegistryLogin::Token(token)),
        _ => None,
    };
    let tls = schemas.tls.clone();
    settings.tls = millrace_kit::Tls { ca: tls.ca, cert: tls.cert, key: tls.key, server_name: None };
    Ok(Some(Arc::new(Client::new(settings)?)))
}

/// Where we reach what listens at an address ourselves.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(_) if listen.ip().is_unspecified() => ([127, 0, 0, 1], listen.port()).into(),
        SocketAddr::V6(_) if listen.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, listen.port()).into(),
        given => given,
    }
}
