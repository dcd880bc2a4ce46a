//! How people and programs reach Millrace: its HTTP, and what it says on standard error.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::server_tls::ServerTls;
use crate::tree::units::Listen;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Millrace's own HTTP: console, REST, metrics, health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens. Anywhere but on loopback it wants `tls`, and `tokens` or `users`.
    pub listen: Listen,
    /// Its certificate.
    pub tls: Option<ServerTls>,
    /// Programs that may ask, by name. Without any, and without users, whoever is on this machine.
    pub tokens: IndexMap<String, Token>,
    /// People who may log in on the page, by name.
    pub users: IndexMap<String, User>,
    /// Names under which it is reached, beside those of loopback: of a proxy in front of it.
    pub hosts: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Listen(([127, 0, 0, 1], 8080).into()),
            tls: None,
            tokens: IndexMap::new(),
            users: IndexMap::new(),
            hosts: Vec::new(),
        }
    }
}

/// A person who logs in on the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The Argon2 hash of the password, as `millrace config hash` prints it: `$argon2id$..`.
    pub hash: Spanned<String>,
    /// What it allows.
    #[serde(default)]
    pub role: TokenRole,
}

/// A token for Millrace's own HTTP, sent as `Authorization: Bearer ..`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The token, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub token: Secret,
    /// What it allows.
    #[serde(default)]
    pub role: TokenRole,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Looks.
    #[default]
    Viewer,
    /// Looks, and pauses, restarts, replays.
    Operator,
    /// Everything that HTTP can do.
    Admin,
}

/// What Millrace says about itself on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Messages {
    /// The least important messages to show.
    pub level: Level,
    /// How they are written.
    pub format: MessageFormat,
}

impl Default for Messages {
    fn default() -> Self {
        Self { level: Level::Info, format: MessageFormat::Text }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is lost, or a human is needed.
    Error,
    /// Something went wrong; nothing is lost.
    Warn,
    /// What a person wants to know: what starts, what stops, where things are.
    Info,
    /// What a developer of a connector wants to know.
    Debug,
    /// Everything.
    Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// For people.
    Text,
    /// For a log collector: one object per line.
    Json,
}
