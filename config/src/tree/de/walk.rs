//! The walk through a node: what serde asks, answered from the tree, with the way back noted on every error.

use super::error::{Error, Id, NODE, Result, SPANNED, What};
use super::stand_in::StandIn;
use super::state::State;
use crate::tree::node::{Entry, Kind, Node};
use crate::tree::secret::SECRET;
use crate::tree::units::SUCH_AS;
use crate::tree::{scalar, suggest};
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer, U64Deserializer};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::cell::{Cell, RefCell};

thread_local! {
    /// A node on its way through serde to a field of type [`Node`].
    pub(super) static CARRIED: RefCell<Option<Node>> = const { RefCell::new(None) };
    /// Whether secrets must be references: in a factory's files, not in a snippet.
    pub(super) static STRICT: Cell<bool> = const { Cell::new(false) };
}

/// A node as serde sees it, under the stand-ins of a [`State`].
#[derive(Clone, Copy)]
pub(super) struct De<'n, 's> {
    pub node: &'n Node,
    pub state: &'s State<'s>,
}

impl<'n, 's> De<'n, 's> {
    fn stands_in(&self) -> bool {
        self.state.standing_in.contains(&(self.node as Id))
    }

    /// Hands the value over as what it is.
    fn as_it_is<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(text) => visitor.visit_bool(scalar::core_bool(text.as_str()).unwrap_or_default()),
            Kind::Int(_) => self.integer(visitor),
            Kind::Float(_) => visitor.visit_f64(self.node.as_f64().unwrap_or(f64::NAN)),
            Kind::String(text) => visitor.visit_str(text.as_str()),
            Kind::Seq(items) => {
                let mut items = Items { items: items.iter(), state: self.state };
                visitor.visit_seq(&mut items)
            }
            Kind::Map(entries) => {
                let supplied = self.state.supplied.iter().filter(|(id, _)| std::ptr::eq(*id, self.node)).map(|(_, key)| *key).collect();
                visitor.visit_map(Entries { entries: entries.iter(), value: None, supplied, state: self.state })
            }
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.node.as_i128() {
            Some(int) => match (i64::try_from(int), u64::try_from(int)) {
                (Ok(int), _) => visitor.visit_i64(int),
                (_, Ok(int)) => visitor.visit_u64(int),
                _ => visitor.visit_f64(int as f64),
            },
            None => visitor.visit_f64(self.node.as_f64().unwrap_or(f64::NAN)),
        }
    }

    /// Runs the visit, on a stand-in where one is due, and notes the way on an error.
    fn at<T>(self, value: impl FnOnce(Self) -> Result<T>, stand_in: impl FnOnce(StandIn) -> Result<T>) -> Result<T> {
        match self.stands_in() {
            true => stand_in(StandIn),
            false => value(self),
        }
        .map_err(|error| error.through(self.node))
    }
}

macro_rules! as_it_is {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                // Only one of the two closures runs, so the visitor is there for either.
                let visitor = Cell::new(Some(visitor));
                let take = || visitor.take().expect("taken once");
                self.at(|de| de.as_it_is(take()), |stand_in| stand_in.$method(take()))
            }
        )*
    };
}

macro_rules! number {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                let visitor = Cell::new(Some(visitor));
                let take = || visitor.take().expect("taken once");
                self.at(
                    |de| match &de.node.kind {
                        // `1e3` is a whole number too.
                        Kind::Float(_) => match de.node.as_f64() {
                            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => take().visit_i64(float as i64),
                            _ => de.as_it_is(take()),
                        },
                        _ => de.as_it_is(take()),
                    },
                    |stand_in| stand_in.$method(take()),
                )
            }
        )*
    };
}

macro_rules! text {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                let visitor = Cell::new(Some(visitor));
                let take = || visitor.take().expect("taken once");
                self.at(
                    // A number where text is wanted is the text as it was written: a version `1.10` stays one.
                    |de| match de.node.text() {
                        Some(text) => take().visit_str(text.as_str()),
                        None => de.as_it_is(take()),
                    },
                    |stand_in| stand_in.$method(take()),
                )
            }
        )*
    };
}

impl<'de> Deserializer<'de> for De<'_, '_> {
    type Error = Error;

    as_it_is!(deserialize_any deserialize_bool deserialize_f32 deserialize_f64 deserialize_unit deserialize_seq deserialize_map);
    number!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    number!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    text!(deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.stands_in() || self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, name: &'static str, keys: &'static [&'static str], visitor: V) -> Result<V::Value> {
        if self.stands_in() {
            return StandIn.deserialize_struct(name, keys, visitor).map_err(|error| error.through(self.node));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, name: &'static str, variants: &'static [&'static str], visitor: V) -> Result<V::Value> {
        if self.stands_in() {
            return StandIn.deserialize_enum(name, variants, visitor).map_err(|error| error.through(self.node));
        }
        match &self.node.kind {
            Kind::Map(entries) => {
                let entry = match entries.iter().find(|entry| !self.state.left_out.contains(&(&raw const entry.value))) {
                    Some(entry) if entries.len() == 1 => entry,
                    _ => return Err(Error::new(What::Type { expected: format!("one of {}", suggest::list(variants)) }).through(self.node)),
                };
                visitor.visit_enum(OneKey { entry, state: self.state })
            }
            _ => match self.node.text() {
                Some(text) => visitor.visit_enum(StrDeserializer::<Error>::new(text.as_str())),
                None => Err(Error::new(What::Type { expected: format!("one of {}", suggest::list(variants)) })),
            },
        }
        .map_err(|error| error.through(self.node))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        let result = match name {
            SPANNED => visitor.visit_seq(PlaceThenValue { de: self, step: 0 }),
            NODE if self.stands_in() => Err(Error::new(What::StandIn)),
            NODE => {
                CARRIED.with_borrow_mut(|carried| *carried = Some(self.node.clone()));
                visitor.visit_unit()
            }
            SECRET if !self.stands_in() => match self.node.text() {
                Some(text) if text.reference().is_some() || !STRICT.get() => visitor.visit_str(text.as_str()),
                Some(_) => Err(Error::new(What::WrittenOut)),
                None => self.as_it_is(visitor),
            },
            _ => match name.strip_prefix(SUCH_AS) {
                Some(such) if self.stands_in() => visitor.visit_str(such),
                // The text as it was written: an error quotes it.
                Some(_) => match &self.node.kind {
                    Kind::Int(text) | Kind::Float(text) => visitor.visit_str(text.as_str()),
                    _ => self.as_it_is(visitor),
                },
                None => visitor.visit_newtype_struct(self),
            },
        };
        result.map_err(|error| error.through(self.node))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

/// What a [`Spanned`] sees: first the place, then the value.
struct PlaceThenValue<'n, 's> {
    de: De<'n, 's>,
    step: u8,
}

impl<'de> SeqAccess<'de> for PlaceThenValue<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(U64Deserializer::new(self.de.node.place.0)).map(Some),
            2 => seed.deserialize(self.de).map(Some),
            _ => Ok(None),
        }
    }
}

struct Items<'n, 's> {
    items: std::slice::Iter<'n, Node>,
    state: &'s State<'s>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        match self.items.find(|item| !self.state.left_out.contains(&(&raw const **item))) {
            Some(item) => seed.deserialize(De { node: item, state: self.state }).map(Some).map_err(|error| error.through(item)),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len().min(4096))
    }
}

struct Entries<'n, 's> {
    entries: std::slice::Iter<'n, Entry>,
    value: Option<&'n Node>,
    supplied: Vec<&'static str>,
    state: &'s State<'s>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        match self.entries.find(|entry| !self.state.left_out.contains(&(&raw const entry.value))) {
            Some(entry) => {
                self.value = Some(&entry.value);
                seed.deserialize(Key { entry }).map(Some).map_err(|error| error.in_key(entry))
            }
            None => {
                self.value = None;
                match self.supplied.last() {
                    Some(key) => seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some),
                    None => Ok(None),
                }
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        match self.value {
            // A type may refuse what a deserializer handed over gladly: such an error has not come through the value yet.
            Some(node) => seed.deserialize(De { node, state: self.state }).map_err(|error| error.through(node)),
            None => {
                self.supplied.pop();
                seed.deserialize(StandIn)
            }
        }
    }
}

/// A key: text, or the number or truth it spells where that is wanted.
struct Key<'n> {
    entry: &'n Entry,
}

macro_rules! key_number {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                match scalar::core_int(&self.entry.key).and_then(|int| i64::try_from(int).ok()) {
                    Some(int) => visitor.visit_i64(int),
                    None => visitor.visit_str(&self.entry.key),
                }
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Error;

    key_number!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_str(&self.entry.key)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match scalar::core_bool(&self.entry.key) {
            Some(value) => visitor.visit_bool(value),
            None => visitor.visit_str(&self.entry.key),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        visitor.visit_enum(StrDeserializer::<Error>::new(&self.entry.key))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        match name {
            SPANNED => visitor.visit_seq(PlaceThenKey { entry: self.entry, step: 0 }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct PlaceThenKey<'n> {
    entry: &'n Entry,
    step: u8,
}

impl<'de> SeqAccess<'de> for PlaceThenKey<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(U64Deserializer::new(self.entry.value.place.key().0)).map(Some),
            2 => seed.deserialize(Key { entry: self.entry }).map(Some),
            _ => Ok(None),
        }
    }
}

/// An enum written as a mapping of one key.
struct OneKey<'n, 's> {
    entry: &'n Entry,
    state: &'s State<'s>,
}

impl<'de, 'n, 's> EnumAccess<'de> for OneKey<'n, 's> {
    type Error = Error;
    type Variant = De<'n, 's>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant)> {
        let variant = seed.deserialize(Key { entry: self.entry })?;
        Ok((variant, De { node: &self.entry.value, state: self.state }))
    }
}

impl<'de> VariantAccess<'de> for De<'_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        match self.node.is_null() {
            true => Ok(()),
            false => Err(Error::new(What::Type { expected: "nothing".into() }).through(self.node)),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self).map_err(|error| error.through(self.node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }
}
