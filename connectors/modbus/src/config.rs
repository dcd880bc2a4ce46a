//! The keys of a Modbus source in the YAML; those of a device and of a tag are in [`crate::device`].

use crate::device::DeviceKeys;
use crate::point::Modbus;
use millrace_config::{Period, Spanned};
use millrace_kit::groups::{Beside, SharedKeys};
use millrace_kit::polled::{DeviceOf, GroupOf};
use schemars::JsonSchema;
use std::collections::BTreeMap;

/// A Modbus source: the keys of the connection, and beside them those of a device, which hold for all its devices that say nothing else.
pub type SourceConfig = Beside<ConnectionKeys, DeviceKeys>;

/// One connection with one device or many.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionKeys {
    /// The line: `tcp://host:502`, `rtu:///dev/ttyUSB0?baud=19200&parity=even` (also `stop_bits`, `data_bits`), or `rtu+tcp://host:port` for a serial
    /// server in transparent mode.
    pub endpoint: Spanned<String>,
    /// How the line is used.
    #[serde(default)]
    pub bus: Option<Spanned<BusConfig>>,
    /// What to read from the source's one device.
    #[serde(default)]
    pub groups: Vec<GroupOf<Modbus>>,
    /// The devices behind a gateway or on a serial line: one connection, each with its own path, breaker and status.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceOf<Modbus>>,
}

impl SharedKeys for ConnectionKeys {
    const KEYS: &'static [&'static str] = &["endpoint", "bus", "groups", "devices"];
}

/// How a line is used.
#[derive(Clone, PartialEq, Debug, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// How long a device may take to answer, from 1ms to 60s. On a serial line the time of the bytes comes on top.
    pub timeout: Spanned<Period>,
    /// Between the end of an answer and the next request. A serial line keeps its 3.5 characters in any case.
    pub pause: Spanned<Period>,
    /// How long a connection may take to open.
    pub connect_timeout: Spanned<Period>,
    /// Between connecting and the first request, for devices that need a moment.
    pub connect_delay: Spanned<Period>,
    /// `cycle`: closes the connection after each cycle, so that the vendor's own tool gets in.
    pub close_after: CloseAfter,
    /// Requests in flight at a time, from 1 to 16, for devices and gateways that queue them. More than one only over TCP with transaction ids.
    pub in_flight: Spanned<u16>,
    /// `ignored` for gateways that don't echo the transaction id.
    pub transaction_id: TransactionId,
    /// The RS-485 adapter sends back what is sent.
    pub echo: bool,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            timeout: Period::from_secs(1).into(),
            pause: Period::from_secs(0).into(),
            connect_timeout: Period::from_secs(5).into(),
            connect_delay: Period::from_secs(0).into(),
            close_after: CloseAfter::default(),
            in_flight: 1.into(),
            transaction_id: TransactionId::default(),
            echo: false,
        }
    }
}

/// When a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseAfter {
    /// Only when it fails.
    #[default]
    Never,
    /// After each cycle.
    Cycle,
}

/// Whether answers carry the id of their request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransactionId {
    /// As the standard says.
    #[default]
    Echoed,
    /// The gateway sends another: answers are matched by unit, function and size, and the connection is closed after a timeout.
    Ignored,
}
