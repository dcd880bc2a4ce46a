//! Alarms that leave Millrace without Kafka: what raises them, when nobody is to be woken, and where they go.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::units::Period;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is told to people without Kafka, and to whom: connectors and Kafka in trouble, logs that fill, certificates that end, dead letters, a clock that
/// is not set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alarms {
    /// Where they go, by name. Without any, none is sent.
    pub to: IndexMap<String, AlarmTarget>,
    /// How long something must last before it is told, and be over before that is told.
    pub hold: Period,
    /// How often it is told again while it lasts.
    pub repeat: Period,
    /// Sources that are silent too long, by name, `*` for any part of it: `{press-*: 2m}`. The first that fits counts; others may be silent for ever.
    pub silent: IndexMap<String, Period>,
    /// So many dead letters of one connector in five minutes.
    pub dead_letters: u64,
    /// When nothing is told; what is still wrong at the end is told then.
    pub maintenance: Vec<Maintenance>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            to: IndexMap::new(),
            hold: Period::from_secs(30),
            repeat: Period::from_secs(4 * 3600),
            silent: IndexMap::new(),
            dead_letters: 1,
            maintenance: Vec::new(),
        }
    }
}

/// Where alarms go: one of `webhook`, `mqtt` and `mail`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmTarget {
    /// A URL that each alarm is posted to as JSON.
    pub webhook: Option<Spanned<String>>,
    /// A broker, `mqtt://host:1883` or `mqtts://host:8883`. It is part of the floor: `floor: {writes: allowed}`.
    pub mqtt: Option<Spanned<String>>,
    /// A mail server: `smtps://host:465`, `smtp://host:587` (STARTTLS is demanded), or `smtp-plain://host:25` (never encrypted).
    pub mail: Option<Spanned<String>>,
    /// What it is told: warnings and errors, or errors only.
    pub level: AlarmLevel,
    /// A token for `Authorization: Bearer` of a webhook, by reference.
    pub bearer: Option<Secret>,
    /// User and password of a broker or a mail server.
    pub login: Option<AlarmLogin>,
    /// The authority to trust, PEM. Left out: the system's.
    pub ca: Option<PathBuf>,
    /// The MQTT topic; `{key}` is the alarm's id, `source/press-1/blocked`.
    pub topic: Option<Spanned<String>>,
    /// Who sends the mail.
    pub from: Option<Spanned<String>>,
    /// Who gets the mail.
    pub recipients: Vec<Spanned<String>>,
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmLogin {
    /// The user's name.
    pub user: String,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub password: Secret,
}

/// How bad an alarm is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmLevel {
    /// Something is wrong, nothing is lost.
    #[default]
    Warning,
    /// Something is lost, or a human is needed.
    Error,
}

/// A time in which nothing is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// A moment, `2026-12-24T18:00:00+01:00`, or a time of each day, `22:00`, of this machine's time zone.
    pub from: Spanned<String>,
    /// Its end, in the same form. A time of day before `from` is that of the next day.
    pub until: Spanned<String>,
    /// With times of day: only on windows that begin on these days, `[sat, sun]`. Every day without it.
    #[serde(default)]
    pub days: Vec<Spanned<String>>,
}
