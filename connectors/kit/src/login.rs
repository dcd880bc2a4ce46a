//! How a connector introduces itself with a name and a password.

use millrace_config::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

/// A user name and a password, as the device or broker knows them.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub password: Secret,
}
