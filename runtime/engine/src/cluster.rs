//! Where the factory's own Kafka is and how to log in, from its YAML.

use millrace_config::factory::{EmbeddedBroker, Factory};
use millrace_contract::Registry;
use millrace_kafka::{Pin, Settings};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// `bootstrap.servers`: as the factory says, or where the embedded broker listens.
pub fn bootstrap(factory: &Factory) -> String {
    match factory.kafka.brokers.value.as_str() {
        EMBEDDED => {
            let mut listen = factory.kafka.embedded.listen.0;
            if listen.ip().is_unspecified() {
                listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            listen.to_string()
        }
        brokers => brokers.to_owned(),
    }
}

/// `kafka.brokers: embedded`.
pub const EMBEDDED: &str = "embedded";

/// Where Kafka is and how to log in, as the factory says.
pub fn settings(factory: &Factory) -> Settings {
    let mut settings = Settings::new(bootstrap(factory));
    settings.client_id = format!("millrace-{}", factory.site.value.replace('/', "-"));
    settings.properties = factory.kafka.properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
    if factory.kafka.brokers.value == EMBEDDED {
        settings.properties.extend(login(&factory.kafka.embedded).into_iter().flatten());
        // The certificate names this machine as others know it, not the address here, and its authority's root is not ours to know: an ordinary chain
        // ends below it. But it lies here, so no other is believed.
        settings.pin = factory.kafka.embedded.tls.as_ref().map(|tls| Arc::new(Pin::of(&tls.certificate)));
    }
    settings
}

/// How this process logs in to its own broker, where that asks for it.
fn login(embedded: &EmbeddedBroker) -> Option<[(String, String); 4]> {
    embedded.tls.as_ref()?;
    let (user, password) = embedded.users.first()?;
    let properties = [
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
        ("sasl.username", user.clone()),
        ("sasl.password", password.expose().to_owned()),
    ];
    Some(properties.map(|(key, value)| (key.to_owned(), value)))
}

/// Where the schemas of its values are registered, and how to log in there.
pub fn registry(factory: &Factory) -> Option<Registry> {
    let schemas = &factory.schemas;
    let urls = match schemas.registry.value.as_str() {
        "none" => return None,
        EMBEDDED => {
            let mut listen = schemas.listen.0;
            if listen.ip().is_unspecified() {
                listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            format!("http://{listen}")
        }
        urls => urls.to_owned(),
    };
    let login = schemas.login.as_ref().map(|login| login.value.clone()).unwrap_or_default();
    let tls = schemas.tls.clone();
    Some(Registry { urls, user: login.user.zip(login.password), token: login.token, ca: tls.ca, cert: tls.cert, key: tls.key })
}
