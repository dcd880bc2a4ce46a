//! The certificate of a listener, of Millrace or of a connector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The certificate that a listener shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file: the certificate, and those it was signed with.
    pub certificate: PathBuf,
    /// PEM file: the certificate's key.
    pub key: PathBuf,
}
