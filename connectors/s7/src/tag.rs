//! One tag: its keys in the YAML, and the address that they are compiled to.

use crate::address::Address;
use millrace_config::{Problems, Shorthand, Spanned};
use millrace_kit::groups::NoKeys;
use millrace_kit::polled::{Addressed, Protocol, TagAt};
use schemars::JsonSchema;
use serde::Deserialize;

/// One tag.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagConfig {
    /// Where it lies: `DB1.DBD0:REAL`, `DB1.DBX4.0`, `DB1.DBB10:STRING[20]`, `MW10:INT`, `T5`; as TIA, STEP 7 (German too), PLC4X, nodeS7 and Kepware write it.
    pub address: Spanned<String>,
    /// Its type, where the address does not say: `REAL`, `STRING[20]`, `INT[10]`.
    #[serde(default, rename = "as")]
    pub kind: Option<Spanned<String>>,
    /// After a command, reads the value back: the command is done only if the CPU has it.
    #[serde(default)]
    pub read_back: bool,
}

impl Shorthand for TagConfig {
    const KEY: &'static str = "address";
}

/// S7 as a polled protocol.
pub struct S7;

/// A tag's address, and what a command does after it was written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TagAddress {
    pub address: Address,
    pub read_back: bool,
}

impl Protocol for S7 {
    type Tag = TagConfig;
    type Group = NoKeys;
    type Device = NoKeys;
    type Address = TagAddress;
    const EXAMPLE: &'static str = "zone1: \"DB1.DBD0:REAL\"";

    fn address(&self, tag: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<TagAddress>> {
        let config = &tag.tag.own.0;
        match Address::parse(&config.address, config.kind.as_ref().map(|kind| kind.value.as_str())) {
            Ok(address) => Some(Addressed {
                address: TagAddress { address, read_back: config.read_back },
                written: config.address.value.clone(),
                kind: Some(match address.count {
                    Some(count) => format!("{}[{count}]", address.kind),
                    None => address.kind.to_string(),
                }),
                shape: Some(address.shape()),
            }),
            Err(error) => {
                problems.error(config.address.place, error.to_string());
                None
            }
        }
    }
}
