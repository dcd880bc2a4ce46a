//! How a cluster is reached: what of librdkafka's properties this client understands, read once.
//!
//! A property that concerns the connection and is not known here is no reason to guess: with it nothing is forwarded whole, and librdkafka copies record
//! by record as ever.

use crate::error::KafkaError;
use crate::properties::Settings;
use crate::wire::fault::{no_tls, unsupported};
use crate::wire::scram::Hash;
use millrace_tls::ClientTls;
use rustls::ClientConfig;
use std::path::Path;
use std::sync::Arc;

/// The beginnings of the names of properties that concern a connection.
const CONCERNS: [&str; 8] =
    ["ssl.", "sasl.", "enable.ssl", "enable.sasl", "security.", "broker.address.", "client.dns", "resolve.canonical"];
/// What librdkafka takes as its largest message unless told otherwise.
const BOUND: usize = 100_000_000;
/// The least bound that the property may set.
const LEAST_BOUND: usize = 1 << 20;

/// A login.
#[derive(Clone)]
pub(crate) enum Login {
    None,
    Plain { user: String, password: String },
    Scram { hash: Hash, user: String, password: String },
}

/// How a cluster is reached, its certificates read.
#[derive(Clone)]
pub struct Access {
    pub(crate) brokers: Vec<String>,
    pub(crate) client_id: String,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) login: Login,
    /// The longest frame that is read.
    pub(crate) bound: usize,
}

/// What the properties say, before any file is read.
struct Said<'s> {
    tls: Option<ClientTls>,
    sasl: bool,
    mechanism: &'s str,
}

fn said(settings: &Settings) -> Result<Said<'_>, KafkaError> {
    if settings.token.is_some() {
        return Err(unsupported("a login with tokens is librdkafka's"));
    }
    if settings.pin.is_some() {
        return Err(unsupported("a broker that is known by its certificate alone is librdkafka's"));
    }
    let (mut tls, mut protocol, mut mechanism) = (ClientTls::default(), "plaintext".to_owned(), "");
    for (name, value) in &settings.properties {
        let (value, is) = (value.trim(), |wanted: &str| value.trim().eq_ignore_ascii_case(wanted));
        match name.as_str() {
            "security.protocol" => protocol = value.to_ascii_lowercase(),
            "ssl.ca.location" => tls.ca = Some(value.into()),
            "ssl.certificate.location" => tls.cert = Some(value.into()),
            "ssl.key.location" => tls.key = Some(value.into()),
            "enable.ssl.certificate.verification" if is("true") => {}
            "ssl.endpoint.identification.algorithm" if is("https") => {}
            "sasl.mechanism" | "sasl.mechanisms" => mechanism = value,
            "sasl.username" | "sasl.password" => {}
            "broker.address.family" if is("any") => {}
            name if CONCERNS.iter().any(|concerns| name.starts_with(concerns)) => {
                return Err(unsupported(format!("Kafka property {name} is understood by librdkafka alone")));
            }
            _ => {}
        }
    }
    let (tls, sasl) = match protocol.as_str() {
        "plaintext" => (None, false),
        "ssl" => (Some(tls), false),
        "sasl_plaintext" => (None, true),
        "sasl_ssl" => (Some(tls), true),
        _ => return Err(unsupported(format!("security.protocol {protocol} is understood by librdkafka alone"))),
    };
    let is_known = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].iter().any(|known| mechanism.eq_ignore_ascii_case(known));
    if sasl && !is_known {
        return Err(unsupported(format!("sasl.mechanism {mechanism} is understood by librdkafka alone")));
    }
    Ok(Said { tls, sasl, mechanism })
}

/// Whether this client can reach a cluster with these settings; the error says what it cannot work with. No I/O.
pub fn understands(settings: &Settings) -> Result<(), KafkaError> {
    said(settings).map(|_| ())
}

impl Access {
    /// Reads the certificates. Errors: [`understands`] says no, or a file is not what it should be.
    pub fn new(settings: &Settings) -> Result<Self, KafkaError> {
        let Said { tls, sasl, mechanism } = said(settings)?;
        if let Some(folder) = tls.as_ref().and_then(|tls| tls.ca.as_deref()).filter(|ca| Path::is_dir(ca)) {
            return Err(unsupported(format!("ssl.ca.location {} is a folder, which is understood by librdkafka alone", folder.display())));
        }
        let tls = tls.map(|tls| tls.client_config().map_err(no_tls)).transpose()?;
        let property = |name: &str| settings.properties.get(name).cloned().unwrap_or_default();
        let (user, password) = (property("sasl.username"), property("sasl.password"));
        let login = match mechanism.to_ascii_uppercase().as_str() {
            _ if !sasl => Login::None,
            "PLAIN" => Login::Plain { user, password },
            "SCRAM-SHA-256" => Login::Scram { hash: Hash::Sha256, user, password },
            _ => Login::Scram { hash: Hash::Sha512, user, password },
        };
        let bound = property("receive.message.max.bytes").parse().unwrap_or(BOUND).max(LEAST_BOUND);
        let host = |text: &str| text.trim().rsplit("://").next().unwrap_or_default().to_owned();
        let with_port =
            |host: String| if host.rsplit(']').next().unwrap_or_default().contains(':') { host } else { format!("{host}:9092") };
        let brokers = settings.brokers.split(',').map(host).filter(|host| !host.is_empty()).map(with_port).collect();
        Ok(Self { brokers, client_id: settings.client_id.clone(), tls, login, bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pairs: &[(&str, &str)]) -> Option<String> {
        let settings = pairs.iter().fold(Settings::new("a:1"), |settings, (name, value)| settings.with(*name, *value));
        understands(&settings).err().map(|error| error.to_string())
    }

    #[test]
    fn what_tunes_is_passed_over_and_what_secures_is_understood_or_named() {
        for fine in [
            &[("linger.ms", "5"), ("socket.keepalive.enable", "true")][..],
            &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "scram-sha-512"), ("sasl.username", "u"), ("ssl.ca.location", "/ca")],
            &[("security.protocol", "ssl"), ("ssl.endpoint.identification.algorithm", "https")],
        ] {
            assert_eq!(refusal(fine), None);
        }
        for (wrong, named) in [
            (&[("security.protocol", "SSL"), ("ssl.key.password", "secret")][..], "ssl.key.password"),
            (&[("ssl.endpoint.identification.algorithm", "none")], "ssl.endpoint.identification.algorithm"),
            (&[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "OAUTHBEARER")], "OAUTHBEARER"),
            (&[("enable.ssl.certificate.verification", "false")], "enable.ssl.certificate.verification"),
        ] {
            let text = refusal(wrong).unwrap_or_else(|| panic!("{named} was taken"));
            assert!(text.contains(named) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn brokers_are_named_with_or_without_a_port() {
        let brokers = Access::new(&Settings::new("a, b:9093,SASL_SSL://c:1, [::1]:2,[::1]")).unwrap().brokers;
        assert_eq!(brokers, ["a:9092", "b:9093", "c:1", "[::1]:2", "[::1]:9092"]);
    }
}
