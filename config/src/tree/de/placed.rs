//! Values that take their place, or the node itself, through serde: [`Spanned`], [`Node`], [`Short`].

use super::error::{NODE, SPANNED};
use super::parse_within;
use super::walk::CARRIED;
use crate::tree::node::{Entry, Kind, Node, Short, Shorthand, Spanned};
use crate::tree::place::Place;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            /// Our own deserializer: the place, then the value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Spanned<T>, A::Error> {
                let place = seq.next_element()?.map(Place).unwrap_or_default();
                match seq.next_element()? {
                    Some(value) => Ok(Spanned { value, place }),
                    None => Err(A::Error::invalid_length(1, &self)),
                }
            }

            /// Any other: no place.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Spanned<T>, D::Error> {
                T::deserialize(deserializer).map(Spanned::from)
            }
        }

        deserializer.deserialize_newtype_struct(SPANNED, SpannedVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NODE, NodeVisitor)
    }
}

struct NodeVisitor;

/// A node from a deserializer that is not ours, or from what serde buffers for untagged enums: without places.
struct Unplaced(Node);

impl<'de> Deserialize<'de> for Unplaced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

fn unplaced<E>(kind: Kind) -> Result<Node, E> {
    Ok(Node::new(Place::NONE, kind))
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Unplaced::deserialize(deserializer).map(|node| node.0)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(CARRIED.with_borrow_mut(Option::take).unwrap_or(Node::null(Place::NONE)))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        unplaced(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.visit_newtype_struct(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        unplaced(Kind::Bool(if value { "true" } else { "false" }.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        unplaced(Kind::Int(value.to_string().as_str().into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        unplaced(Kind::Int(value.to_string().as_str().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        unplaced(Kind::Float(value.to_string().as_str().into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        unplaced(Kind::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(Unplaced(item)) = seq.next_element()? {
            items.push(item);
        }
        unplaced(Kind::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, Unplaced(value))) = map.next_entry::<String, _>()? {
            entries.push(Entry { key: key.into(), value });
        }
        unplaced(Kind::Map(entries))
    }
}

impl<'de, T: DeserializeOwned + Shorthand> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let full = match &node.kind {
            Kind::Map(_) | Kind::Null => node,
            _ => Node::new(node.place, Kind::Map(vec![Entry { key: T::KEY.into(), value: node }])),
        };
        parse_within(&full).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl JsonSchema for Node {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Node".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}

impl<T: JsonSchema + Shorthand> JsonSchema for Short<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrShorthand", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = T::json_schema(generator);
        let short = full
            .get("properties")
            .and_then(|keys| keys.get(T::KEY))
            .cloned()
            .unwrap_or_else(|| serde_json::json!({"type": ["string", "number"]}));
        schemars::json_schema!({"anyOf": [short, full]})
    }
}
