//! Scalars with units: `250ms`, `4GiB`, `1%`, and secrets.

use std::time::Duration;

/// A duration with its unit: `250ms`, `1s`, `15m`, `4h`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
pub struct Period(pub Duration);

/// A size with its unit: `64KiB`, `256MiB`, `4GiB`, or a bare number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
pub struct ByteSize(pub u64);

/// A deadband: absolute (`0.5`) or in percent of the engineering range (`1%`).
#[derive(Clone, Copy, PartialEq, Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
pub enum Deadband {
    Absolute(f64),
    Percent(f64),
}

/// A secret: never printed, zeroed when dropped.
#[derive(Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}
