//! The schema registry: where it is, who may ask it, what it demands.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::units::Listen;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The schema registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schemas {
    /// `http(s)://registry:8081` (Confluent-compatible; several addresses of one registry with commas), `embedded`, or `none`.
    pub registry: Spanned<String>,
    /// How to log in to the registry. The embedded one asks everybody for it, and needs one where `listen` is not on loopback.
    pub login: Option<Spanned<RegistryLogin>>,
    /// Certificates, for a registry at `https://`.
    pub tls: RegistryTls,
    /// Where the embedded one listens.
    pub listen: Listen,
    /// What the registry demands of a new version of a schema.
    pub compatibility: Compatibility,
}

impl Default for Schemas {
    fn default() -> Self {
        Self {
            registry: Spanned::from("none".to_owned()),
            login: None,
            tls: RegistryTls::default(),
            listen: Listen(([127, 0, 0, 1], 8081).into()),
            compatibility: Compatibility::Backward,
        }
    }
}

/// A login of the schema registry: user and password, or a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryLogin {
    /// The user's name, with `password`.
    pub user: Option<String>,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub password: Option<Secret>,
    /// A bearer token instead, by reference.
    pub token: Option<Secret>,
}

/// Certificates for the schema registry. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTls {
    /// The authority (or the registry's own certificate) to trust. Left out: the system's authorities.
    pub ca: Option<PathBuf>,
    /// This client's certificate, where the registry asks for one. Wants `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}
