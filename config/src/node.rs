//! The marked tree: YAML values that know their places, and deserialising from it.

use crate::problem::{Place, Problems};
use serde::de::DeserializeOwned;

/// A YAML value with its place. A config struct may hold one, to be parsed later.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
}

impl Node {
    /// Deserialises, reporting every problem found (unknown keys, wrong types, missing keys) with its place.
    pub fn parse<T: DeserializeOwned>(&self, _problems: &mut Problems) -> Option<T> {
        todo!()
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Spanned<T> {
    fn deserialize<D: serde::Deserializer<'de>>(_d: D) -> Result<Self, D::Error> {
        todo!()
    }
}

impl<'de> serde::Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(_d: D) -> Result<Self, D::Error> {
        todo!()
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}
