//! The keys of a device and of a tag in the YAML.

use millrace_config::{Shorthand, Spanned};
use millrace_kit::registers::{Encoding, Order, WordType};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;

/// What is known of a device. At the source it holds for all its devices.
#[derive(Clone, PartialEq, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceKeys {
    /// A file with more of these keys, as `millrace probe modbus ENDPOINT --profiles FOLDER` writes it; what stands here holds over it. The path is
    /// relative to this file.
    pub profile: Option<String>,
    /// The unit: 1 to 247 behind a gateway and on a serial line. A device that speaks TCP itself takes 255 (default), some 0 or 1.
    pub unit_id: Option<Spanned<u8>>,
    /// The order of bytes of values that name none; default `ABCD`.
    pub order: Option<Spanned<Order>>,
    /// The most registers of one request, from 1 to 125; default 125.
    pub max_registers: Option<Spanned<u16>>,
    /// The most coils or discrete inputs of one request, from 1 to 2000; default 2000.
    pub max_bits: Option<Spanned<u16>>,
    /// How many registers that nobody asked for may be read along to save a request; default 16. 0 for devices that answer wrongly over gaps.
    pub max_gap: Option<Spanned<u16>>,
    /// 32 for devices whose registers hold four bytes each (Enron, Daniel); default 16.
    pub register_bits: Option<Spanned<u8>>,
    /// `zero` takes answers that name unit 0; default `strict`.
    pub unit_check: Option<UnitCheck>,
    /// `single` for devices that only know function codes 5 and 6, `multiple` for those that only know 15 and 16. Default: single for one value,
    /// multiple for several.
    pub write_with: Option<WriteWith>,
    /// How a bit of a register is written; default `refuse`.
    pub bit_write: Option<BitWrite>,
}

/// Which unit an answer may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitCheck {
    /// The one that was asked.
    #[default]
    Strict,
    /// That, or 0.
    Zero,
}

/// Which function codes write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteWith {
    /// 5 and 6.
    Single,
    /// 15 and 16.
    Multiple,
}

/// How a bit of a register is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BitWrite {
    /// Not at all.
    #[default]
    Refuse,
    /// With function code 22, in one step.
    Mask,
    /// Reads the register, changes the bit, writes it back: what the device changes in between is undone.
    ReadModifyWrite,
}

/// One tag.
#[derive(Clone, PartialEq, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagConfig {
    /// `holding:100` counts from 0 as the wire does, `40101` from 1 as manuals do; tables are `coil`, `discrete`, `input`, `holding`. `holding:100.3` is
    /// a bit, `holding:100.4-7` several.
    pub address: Spanned<String>,
    /// What the registers hold: `i16`, `u16` (default), `i32`, `u32`, `i64`, `u64`, `f32`, `f64`, `bcd16`, `bcd32`, `bcd64`, `sm16`, `sm32` (sign and
    /// magnitude), `mod10k32`, `mod10k48`, `mod10k64`, `string[20]`.
    #[serde(default, rename = "as")]
    pub word: Option<Spanned<WordType>>,
    /// The order of bytes, where it differs from the device's: `ABCD`, `CDAB`, `BADC`, `DCBA`; `CDABGHEF` of 64-bit values.
    #[serde(default)]
    pub order: Option<Spanned<Order>>,
    /// The encoding of a text; default `utf-8`.
    #[serde(default)]
    pub encoding: Option<Encoding>,
    /// What the device sends for "not available", as its registers go over the wire, before `order` and `scale`: `[0x8000]`. Such a value is null with a
    /// bad status.
    #[serde(default)]
    pub null_values: Vec<Spanned<NullValue>>,
    /// A command is done only when the device, read again, has the value; default false.
    #[serde(default)]
    pub read_back: bool,
}

impl Shorthand for TagConfig {
    const KEY: &'static str = "address";
}

/// A raw value: registers as one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NullValue(pub i128);

impl<'de> Deserialize<'de> for NullValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = NullValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number such as 0x8000")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<NullValue, E> {
                Ok(NullValue(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<NullValue, E> {
                Ok(NullValue(value.into()))
            }
            fn visit_i128<E: Error>(self, value: i128) -> Result<NullValue, E> {
                Ok(NullValue(value))
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

impl JsonSchema for NullValue {
    fn schema_name() -> Cow<'static, str> {
        "NullValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer"})
    }
}
