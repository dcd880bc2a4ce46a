//! Keys and values of `_schemas`, as Confluent's registry writes them, so that its tools can read the topic.
//!
//! ```text
//! {"keytype":"SCHEMA","subject":"s","version":1,"magic":1}      {"subject":"s","version":1,"id":1,"schema":"..","deleted":false}
//! {"keytype":"CONFIG","subject":"s","magic":0}                  {"subject":"s","compatibilityLevel":"FULL"}      without subject: global
//! {"keytype":"MODE","subject":"s","magic":0}                    {"subject":"s","mode":"READONLY"}
//! {"keytype":"DELETE_SUBJECT","subject":"s","magic":0}          {"subject":"s","version":3}                      all up to this version
//! {"keytype":"NOOP","magic":0}                                  {"millrace_last_id":7}                           ours; others pass over it
//! ```
//!
//! A tombstone takes back what its key says. The highest id that was given out is written before a schema goes for good, so that compaction
//! can't take it along. Keys of other types are left alone.

use crate::schema::{Reference, SchemaId};
use millrace_config::Reason;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a record says.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Record {
    Schema {
        subject: String,
        version: i32,
        value: Option<SchemaValue>,
    },
    Config {
        subject: Option<String>,
        value: Option<ConfigValue>,
    },
    Mode {
        subject: Option<String>,
        mode: Option<Mode>,
    },
    /// All versions up to this one are deleted, softly.
    DeleteSubject {
        subject: String,
        version: Option<i32>,
    },
    /// The highest id that was given out.
    LastId(i32),
    /// Of no meaning here.
    Other,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct SchemaValue {
    pub subject: String,
    pub version: i32,
    pub id: SchemaId,
    #[serde(rename = "schemaType", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    pub schema: String,
    #[serde(default)]
    pub deleted: bool,
    /// What other registries wrote beside it.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct ConfigValue {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(rename = "compatibilityLevel", default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// What may be done with a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Mode {
    #[serde(rename = "READWRITE")]
    ReadWrite,
    #[serde(rename = "READONLY")]
    ReadOnly,
    #[serde(rename = "READONLY_OVERRIDE")]
    ReadOnlyOverride,
    Import,
}

impl Mode {
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(Value::String(name.to_uppercase())).ok()
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "READWRITE",
            Self::ReadOnly => "READONLY",
            Self::ReadOnlyOverride => "READONLY_OVERRIDE",
            Self::Import => "IMPORT",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Key {
    keytype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<i32>,
    #[serde(default)]
    magic: i32,
}

#[derive(Serialize, Deserialize)]
struct ModeValue {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    mode: Mode,
}

#[derive(Serialize, Deserialize)]
struct DeleteValue {
    subject: String,
    version: i32,
}

#[derive(Serialize, Deserialize)]
struct NoopValue {
    millrace_last_id: i32,
}

impl Record {
    /// Reads a record of the topic.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, Reason> {
        fn read<'a, T: Deserialize<'a>>(value: Option<&'a [u8]>) -> Result<Option<T>, Reason> {
            value.map(serde_json::from_slice).transpose().map_err(|error| format!("value: {error}").into())
        }
        let Key { keytype, subject, version, .. } = serde_json::from_slice(key).map_err(|error| format!("key: {error}"))?;
        // Older writers put an empty or null subject where it is global.
        let subject = subject.filter(|subject| !subject.is_empty());
        Ok(match (keytype.as_str(), subject) {
            ("SCHEMA", Some(subject)) => {
                let version = version.ok_or("key: a schema without a version")?;
                Self::Schema { subject, version, value: read(value)? }
            }
            ("CONFIG", subject) => Self::Config { subject, value: read(value)? },
            ("MODE", subject) => Self::Mode { subject, mode: read::<ModeValue>(value)?.map(|value| value.mode) },
            ("DELETE_SUBJECT", Some(subject)) => {
                Self::DeleteSubject { subject, version: read::<DeleteValue>(value)?.map(|value| value.version) }
            }
            ("NOOP", _) => read::<NoopValue>(value)?.map_or(Self::Other, |value| Self::LastId(value.millrace_last_id)),
            _ => Self::Other,
        })
    }

    /// Key and value; no value: a tombstone.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        fn json<T: Serialize>(value: &T) -> Vec<u8> {
            serde_json::to_vec(value).unwrap_or_default()
        }
        let key = |keytype: &str, subject: Option<&String>, version, magic| {
            json(&Key { keytype: keytype.to_owned(), subject: subject.cloned(), version, magic })
        };
        match self {
            Self::Schema { subject, version, value } => (key("SCHEMA", Some(subject), Some(*version), 1), value.as_ref().map(json)),
            Self::Config { subject, value } => (key("CONFIG", subject.as_ref(), None, 0), value.as_ref().map(json)),
            Self::Mode { subject, mode } => {
                let value = mode.map(|mode| json(&ModeValue { subject: subject.clone(), mode }));
                (key("MODE", subject.as_ref(), None, 0), value)
            }
            Self::DeleteSubject { subject, version } => {
                let value = version.map(|version| json(&DeleteValue { subject: subject.clone(), version }));
                (key("DELETE_SUBJECT", Some(subject), None, 0), value)
            }
            Self::LastId(id) => (key("NOOP", None, None, 0), Some(json(&NoopValue { millrace_last_id: *id }))),
            Self::Other => (key("NOOP", None, None, 0), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Confluent's registry 7.x writes them.
    #[test]
    fn records_are_confluents_to_the_byte() {
        for (key, value) in [
            (
                r#"{"keytype":"SCHEMA","subject":"orders-value","version":1,"magic":1}"#,
                Some(r#"{"subject":"orders-value","version":1,"id":1,"schema":"\"string\"","deleted":false}"#),
            ),
            (
                r#"{"keytype":"SCHEMA","subject":"o","version":2,"magic":1}"#,
                Some(
                    r#"{"subject":"o","version":2,"id":7,"schemaType":"PROTOBUF","references":[{"name":"a.proto","subject":"a","version":1}],"schema":"x","deleted":true}"#,
                ),
            ),
            (r#"{"keytype":"SCHEMA","subject":"o","version":2,"magic":1}"#, None),
            (r#"{"keytype":"CONFIG","magic":0}"#, Some(r#"{"compatibilityLevel":"FULL"}"#)),
            (r#"{"keytype":"CONFIG","subject":"o","magic":0}"#, Some(r#"{"subject":"o","compatibilityLevel":"NONE"}"#)),
            (r#"{"keytype":"MODE","subject":"o","magic":0}"#, Some(r#"{"subject":"o","mode":"READONLY"}"#)),
            (r#"{"keytype":"DELETE_SUBJECT","subject":"o","magic":0}"#, Some(r#"{"subject":"o","version":3}"#)),
            (r#"{"keytype":"NOOP","magic":0}"#, None),
            (r#"{"keytype":"NOOP","magic":0}"#, Some(r#"{"millrace_last_id":7}"#)),
        ] {
            let record = Record::decode(key.as_bytes(), value.map(str::as_bytes)).unwrap();
            let (written_key, written) = record.encode();
            assert_eq!(String::from_utf8(written_key).unwrap(), key);
            assert_eq!(written.map(|bytes| String::from_utf8(bytes).unwrap()).as_deref(), value, "{key}");
        }
    }

    #[test]
    fn what_another_registry_wrote_beside_a_schema_survives_its_deletion() {
        let value = r#"{"subject":"o","version":1,"id":1,"schema":"x","deleted":false,"metadata":{"tags":{}},"md5":"abc"}"#;
        let Ok(Record::Schema { value: Some(read), .. }) =
            Record::decode(br#"{"keytype":"SCHEMA","subject":"o","version":1,"magic":1}"#, Some(value.as_bytes()))
        else {
            panic!("a schema");
        };
        assert_eq!(serde_json::to_string(&read).unwrap(), value);
    }

    #[test]
    fn a_damaged_record_is_said_to_be_one() {
        assert!(Record::decode(b"", None).is_err());
        assert!(Record::decode(br#"{"keytype":"SCHEMA","subject":"o"}"#, None).unwrap_err().contains("version"));
        assert!(Record::decode(br#"{"keytype":"SCHEMA","subject":"o","version":1}"#, Some(b"{}")).unwrap_err().starts_with("value"));
    }
}
