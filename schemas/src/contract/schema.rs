//! A schema as it is registered, with what it names, and the number that stands for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The languages schemas are written in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Kind {
    /// Also where none is said, as registries have it.
    #[default]
    Avro,
    Json,
    Protobuf,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Avro, Self::Json, Self::Protobuf];

    /// As registries name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
            Self::Protobuf => "PROTOBUF",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of a [`Kind`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no type of schema", self.0)
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A schema as it is registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    pub kind: Kind,
    pub text: Arc<str>,
    /// The record's full name, the message's, or the title; empty where it has none.
    pub name: Arc<str>,
    /// Other files it names, each with its own.
    pub references: Vec<Reference>,
    /// What stands between the registry's id and the value: of Protobuf, the message's indexes.
    pub indexes: Box<[u8]>,
}

/// A schema that another one names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// As the naming schema has it: `acme.Address`, `acme/address.proto`, `address.schema.json`.
    pub name: Arc<str>,
    pub schema: Arc<Schema>,
}

impl Schema {
    /// That of the samples, in each of its forms.
    pub fn telemetry(kind: Kind) -> Arc<Self> {
        let (text, indexes): (_, &[u8]) = match kind {
            Kind::Avro => (crate::avro::TELEMETRY_SCHEMA, &[]),
            Kind::Json => (crate::json::TELEMETRY_JSON_SCHEMA, &[]),
            Kind::Protobuf => (crate::protobuf::TELEMETRY_PROTO, &[0]),
        };
        Arc::new(Self { kind, text: text.into(), name: "millrace.Sample".into(), references: Vec::new(), indexes: indexes.into() })
    }

    /// A number that stands for this schema in the log: the CRC-64-AVRO of all that is said here; never zero. The telemetry schema in Avro has
    /// the fingerprint of its canonical form.
    pub fn mark(&self) -> u64 {
        if self.kind == Kind::Avro && *self.text == *crate::avro::TELEMETRY_SCHEMA {
            return crate::avro::TELEMETRY_FINGERPRINT;
        }
        let mut crc = Crc64::new();
        self.add_to(&mut crc);
        crc.0.max(1)
    }

    fn add_to(&self, crc: &mut Crc64) {
        for part in [self.kind.as_str().as_bytes(), self.text.as_bytes(), self.name.as_bytes(), &self.indexes] {
            crc.add(&(part.len() as u64).to_le_bytes());
            crc.add(part);
        }
        for reference in &self.references {
            crc.add(reference.name.as_bytes());
            reference.schema.add_to(crc);
        }
    }
}

/// The fingerprint of Avro's specification: CRC-64-AVRO.
struct Crc64(u64);

impl Crc64 {
    const EMPTY: u64 = 0xC15D_213A_A4D7_A795;

    const fn new() -> Self {
        Self(Self::EMPTY)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let mut low = (self.0 ^ u64::from(*byte)) & 0xFF;
            for _ in 0..8 {
                low = (low >> 1) ^ (Self::EMPTY & 0_u64.wrapping_sub(low & 1));
            }
            self.0 = (self.0 >> 8) ^ low;
        }
    }
}
