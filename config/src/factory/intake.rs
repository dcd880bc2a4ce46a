//! What holds for every source: its log, its clock, what may be written to devices.

use crate::tree::node::Spanned;
use crate::tree::units::{ByteSize, KeepFree, Percent, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The durable log between intake and Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Bytes per source, its lanes together. A source may have its own.
    pub size: ByteSize,
    /// Space left free on the disk, for all: percent or a size.
    pub keep_free: KeepFree,
    /// What happens when the log is full and the device can't wait.
    pub full: Full,
    /// What a power cut may take from a source that can't resend; with an acknowledgement waiting it is synced at once.
    pub sync: Period,
    /// When to warn that the log fills.
    pub alarm: Alarm,
    /// How batches are compressed where it pays.
    pub compression: LogCompression,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            size: ByteSize(4 << 30),
            keep_free: KeepFree::Percent(10.0),
            full: Full::Block,
            sync: Period::from_millis(200),
            alarm: Alarm::default(),
            compression: LogCompression::Lz4,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Full {
    /// The source waits: back-pressure to the device where the protocol has it.
    Block,
    /// The oldest records go, counted.
    DropOldest,
    /// The newest records go, counted.
    DropNewest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogCompression {
    /// Fast; pays for most data.
    Lz4,
    /// Not at all.
    None,
}

/// When the log warns that it fills: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alarm {
    /// At this share of the size.
    pub at: Percent,
    /// When it will be full within this time.
    pub left: Period,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at: Percent(70.0), left: Period::from_secs(4 * 3600) }
    }
}

/// How far a device's clock may be off before its time is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Behind the time of reading; backfill and history are exempt.
    pub behind: Period,
    /// Ahead of the time of reading.
    pub ahead: Period,
}

impl Default for Clock {
    fn default() -> Self {
        Self { behind: Period::from_secs(86_400), ahead: Period::from_secs(300) }
    }
}

/// What may be written to devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Floor {
    /// Only this file may allow it: neither the environment nor REST can.
    pub writes: Spanned<Writes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// Nothing is written to a device.
    #[default]
    Forbidden,
    /// Commands, MQTT sinks and acknowledgements of triggers may write.
    Allowed,
}
