//! Alarms that leave Millrace without Kafka: what raises them, when nobody is to be woken, and where they go.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::units::Period;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// What is told to people without Kafka, and to whom: connectors and Kafka in trouble, logs that fill, certificates that end, dead letters, a clock that
/// is not set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alarms {
    /// Where they go: a list, or by name. Without any, none is sent.
    pub to: AlarmTargets,
    /// How long something must last before it is told, and be over before that is told.
    pub hold: Period,
    /// How often it is told again while it lasts.
    pub repeat: Period,
    /// Sources that are silent too long, by name, `*` for any part of it: `{press-*: 2m}`. The first that fits counts; others may be silent for ever.
    pub silent: IndexMap<String, Period>,
    /// So many dead letters of one connector in five minutes.
    pub dead_letters: u64,
    /// How old the oldest record may be that a sink has not read: `15m`. A target that is away shows in it, and a line that is too thin. Left out, none
    /// is too old.
    pub lag: Option<Period>,
    /// How long before a certificate ends it is told, a stage each.
    pub certificate: Vec<Period>,
    /// When nothing is told; what is still wrong at the end is told then.
    pub maintenance: Vec<Maintenance>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            to: AlarmTargets::default(),
            hold: Period::from_secs(30),
            repeat: Period::from_secs(4 * 3600),
            silent: IndexMap::new(),
            dead_letters: 1,
            lag: None,
            certificate: [30, 7, 1].map(|days| Period::from_secs(days * 86_400)).into(),
            maintenance: Vec::new(),
        }
    }
}

/// Where alarms go, by name. Of a list, each is named after what it is: `webhook`, `mail`, `mail-2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlarmTargets(pub IndexMap<String, AlarmTarget>);

impl<'de> Deserialize<'de> for AlarmTargets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Targets;

        impl<'de> Visitor<'de> for Targets {
            type Value = AlarmTargets;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of targets, or targets by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut targets = IndexMap::new();
                while let Some((name, target)) = map.next_entry()? {
                    targets.insert(name, target);
                }
                Ok(AlarmTargets(targets))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut targets = IndexMap::new();
                while let Some(target) = seq.next_element::<AlarmTarget>()? {
                    let kind = target.kind();
                    let numbered = (2..).map(|number| format!("{kind}-{number}"));
                    let mut names = std::iter::once(kind.to_owned()).chain(numbered);
                    if let Some(name) = names.find(|name| !targets.contains_key(name)) {
                        targets.insert(name, target);
                    }
                }
                Ok(AlarmTargets(targets))
            }
        }

        deserializer.deserialize_any(Targets)
    }
}

impl JsonSchema for AlarmTargets {
    fn schema_name() -> Cow<'static, str> {
        "AlarmTargets".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let target = generator.subschema_for::<AlarmTarget>();
        json_schema!({"anyOf": [{"type": "object", "additionalProperties": target}, {"type": "array", "items": target}]})
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

impl AlarmTarget {
    /// What it is.
    fn kind(&self) -> &'static str {
        match (&self.webhook, &self.mqtt, &self.mail) {
            (Some(_), ..) => "webhook",
            (_, Some(_), _) => "mqtt",
            (.., Some(_)) => "mail",
            _ => "target",
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Node, Problems};

    fn alarms(yaml: &str) -> (Option<Alarms>, String) {
        let mut problems = Problems::new();
        let alarms = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
        (alarms, problems.render())
    }

    #[test]
    fn targets_are_a_list_or_have_names() {
        let names = |yaml: &str| {
            let (alarms, said) = alarms(yaml);
            alarms.unwrap_or_else(|| panic!("{said}")).to.0.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names("to: {shift: {webhook: 'https://a'}, plant: {mqtt: 'mqtt://b'}}"), ["shift", "plant"]);
        let list = "to: [{webhook: 'https://a'}, {mail: 'smtp://c', from: a@b}, {webhook: 'https://b'}]";
        assert_eq!(names(list), ["webhook", "mail", "webhook-2"]);
        let (_, said) = alarms("to:\n- {webhook: 'https://a'}\n- {webhok: 'https://a'}\n");
        assert!(said.contains("webhok") && said.contains("did you mean `webhook`?"), "{said}");
    }

    #[test]
    fn a_certificate_is_told_of_when_it_is_said() {
        let days = |alarms: Alarms| alarms.certificate.iter().map(Period::to_string).collect::<Vec<_>>();
        assert_eq!(days(alarms("{}").0.unwrap()), ["30d", "7d", "1d"]);
        assert_eq!(days(alarms("certificate: [60d, 12h]").0.unwrap()), ["60d", "12h"]);
    }
}
