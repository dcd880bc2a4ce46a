//! The keys of an S7 source in the YAML.

use crate::tag::S7;
use millrace_config::{Period, Spanned};
use millrace_kit::Endpoints;
use millrace_kit::groups::NoKeys;
use millrace_kit::polled::GroupOf;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// A PLC that speaks classic S7 communication: S7-300, 400, 1200, 1500, LOGO!, S7-200.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The CPU or its communication processor, `10.0.0.7` or `10.0.0.7:102`; a list names the ways to it, the first that answers is read.
    pub endpoint: Spanned<Endpoints>,
    /// A file with more of these keys, as `millrace probe s7 ENDPOINT --profiles FOLDER` writes it; what stands here holds over it. The path is relative
    /// to this file.
    #[serde(default)]
    pub profile: Option<String>,
    /// The rack of the CPU.
    #[serde(default)]
    pub rack: Spanned<u8>,
    /// The slot of the CPU: 1 for S7-1200 and S7-1500 (default), 2 for S7-300, as in the hardware configuration for S7-400.
    #[serde(default = "slot_default")]
    pub slot: Spanned<u8>,
    /// Whose connection is used up: `op` (default), `pg` or `basic`. A CPU keeps some of each.
    #[serde(default)]
    pub connection: ConnectionType,
    /// The TSAPs instead of rack and slot, `own:remote`, for LOGO! and S7-200: `10.00:20.00` (its project says which).
    #[serde(default)]
    pub tsap: Option<Spanned<String>>,
    /// The size of a PDU that is asked for; the CPU may lower it.
    #[serde(default = "pdu_default")]
    pub pdu: Spanned<u16>,
    /// Jobs in flight that are asked for; the CPU may lower them.
    #[serde(default = "jobs_default")]
    pub jobs: Spanned<u16>,
    /// How long a connection may take to be made, and an answer to come.
    #[serde(default = "timeout_default")]
    pub timeout: Spanned<Period>,
    /// How often the CPU's state is asked for, which also shows whether it is there.
    #[serde(default = "keep_alive_default")]
    pub keep_alive: Spanned<Period>,
    /// The zone of the CPU's dates and times, as in `Europe/Berlin`. Default: UTC.
    #[serde(default)]
    pub timezone: Option<Spanned<String>>,
    /// The code page of the CPU's texts. Default: windows-1252.
    #[serde(default)]
    pub encoding: Option<Spanned<String>>,
    /// Bytes between two tags that are read along, so that both come in one item.
    #[serde(default = "gap_default")]
    pub max_gap: u16,
    /// Adds the tags `cpu/state`, `cpu/order_number` and `cpu/firmware`.
    #[serde(default)]
    pub cpu_tags: bool,
    /// What values are while the CPU is in STOP, and so frozen: `good` (default) or `uncertain`.
    #[serde(default)]
    pub in_stop: InStop,
    /// What to read, and how.
    #[serde(default)]
    pub groups: Vec<GroupOf<S7>>,
}

fn slot_default() -> Spanned<u8> {
    1.into()
}

fn pdu_default() -> Spanned<u16> {
    960.into()
}

fn jobs_default() -> Spanned<u16> {
    8.into()
}

fn timeout_default() -> Spanned<Period> {
    Period(Duration::from_secs(3)).into()
}

fn keep_alive_default() -> Spanned<Period> {
    Period(Duration::from_secs(10)).into()
}

const fn gap_default() -> u16 {
    crate::batching::GAP_BYTES as u16
}

/// The protocol's own keys of a group: none.
pub type GroupKeys = NoKeys;

/// Whose connections of the CPU are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionType {
    /// A programming device's.
    Pg,
    /// An operator panel's.
    #[default]
    Op,
    /// Those of S7 basic communication.
    Basic,
}

impl ConnectionType {
    /// The high byte of the remote TSAP.
    pub const fn code(self) -> u16 {
        match self {
            Self::Pg => 1,
            Self::Op => 2,
            Self::Basic => 3,
        }
    }
}

/// What values are while the CPU is in STOP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InStop {
    /// As they are.
    #[default]
    Good,
    /// Status UncertainLastUsableValue.
    Uncertain,
}
