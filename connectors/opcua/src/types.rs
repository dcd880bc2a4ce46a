//! The server's data types: their names, what enumerations mean, how structures are laid out.
//!
//! A structure's bytes say how they are encoded; the encoding's data type has a DataTypeDefinition, whose fields have data types of their own, up to
//! the built-in ones. Older servers have a [type dictionary](crate::dictionary) instead. All of it is read once per connection, when a value first
//! needs it. Source: OPC 10000-3, 5.8.3; OPC 10000-6, 5.2.6.
//!
//! Invariants: reading a structure follows its layout with a bounded depth; a layout that is not known leaves the bytes as they are.

use crate::dictionary::{Described, Dictionary, Kind, Shape};
use crate::session::{Refused, Session, attribute_of, references_of, value_of};
use crate::values::{MOST_DIMS, shape};
use crate::wire::{DEEPEST, Reader, Undecodable, builtin, least};
use millrace_schemas::{Batch, StatusCode, Value, json};
use opcua::types::{
    AttributeId, BinaryDecodable, BrowseDescription, BrowseDirection, ByteStringBody, ContextOwned, DataTypeId, DataValue, EnumDefinition,
    Identifier, NodeId, ReferenceTypeId, StructureDefinition, StructureType, Variant,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A data type of the server.
#[derive(Clone, Debug)]
pub struct DataType {
    /// Its browse name.
    pub name: Arc<str>,
    /// The built-in type that its values are encoded as.
    pub builtin: u8,
    /// What the numbers of an enumeration mean.
    pub values: Option<BTreeMap<String, String>>,
    /// The layout of a structure, where it is known.
    pub layout: Option<LayoutId>,
}

/// A layout's place in [`Types`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutId(usize);

#[derive(Clone, Debug)]
struct Layout {
    form: Form,
    fields: Vec<Field>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Plain,
    /// A mask of the optional fields that are there comes first.
    Optional,
    /// The number of the one field that is there comes first.
    Union,
}

#[derive(Clone, Debug)]
struct Field {
    name: Arc<str>,
    encoded: Encoded,
    /// Of an array 1, of a matrix more; else less than 1.
    rank: i32,
    is_optional: bool,
}

#[derive(Clone, Copy, Debug)]
enum Encoded {
    Builtin(u8),
    Structure(LayoutId),
}

/// What is known of a server's types. Node ids are those of this connection.
#[derive(Clone, Debug, Default)]
pub struct Types {
    layouts: Vec<Layout>,
    types: HashMap<NodeId, Arc<DataType>>,
    /// By the encoding's node id, as it lies on the wire in its shortest form; `None`: the server does not say.
    encodings: HashMap<Vec<u8>, Option<LayoutId>>,
    /// By their nodes.
    dictionaries: HashMap<NodeId, Arc<Dictionary>>,
}

/// More levels of supertypes, and of structures in structures, has no server that means well.
const MOST_SUPERTYPES: usize = 32;
const MOST_TYPES: usize = 10_000;
const MOST_FIELDS: usize = 10_000;

/// The leaves of a structure, as they are read.
pub trait Leaves {
    /// One leaf; `path` is that of the fields, joined by `/`.
    fn leaf(&mut self, path: &str, value: Value, status: StatusCode);
}

impl Types {
    /// The layout for an encoding; the outer `None`: nobody asked the server yet.
    #[allow(clippy::option_option)]
    pub fn encoding(&self, id: &[u8]) -> Option<Option<LayoutId>> {
        self.encodings.get(id).copied()
    }

    pub fn known(&self, id: &NodeId) -> Option<&Arc<DataType>> {
        self.types.get(id)
    }

    /// Asks the server about data types.
    pub async fn learn(&mut self, session: &Session, ids: &[NodeId]) -> Result<(), Refused> {
        for id in ids {
            self.data_type(session, id).await?;
        }
        Ok(())
    }

    /// Asks the server how values with this encoding are laid out.
    pub async fn learn_encoding(&mut self, session: &Session, encoding: &[u8]) -> Result<(), Refused> {
        let Some(id) = node_id(encoding) else {
            self.encodings.insert(encoding.to_vec(), None);
            return Ok(());
        };
        let mut layout = match first(session, inverse(id.clone(), ReferenceTypeId::HasEncoding)).await? {
            Some(data_type) => self.data_type(session, &data_type).await?.layout,
            None => None,
        };
        if layout.is_none() {
            layout = self.by_dictionary(session, id).await?;
        }
        self.encodings.insert(encoding.to_vec(), layout);
        Ok(())
    }

    /// The layout of an encoding that a type dictionary describes.
    async fn by_dictionary(&mut self, session: &Session, encoding: NodeId) -> Result<Option<LayoutId>, Refused> {
        let Some(description) = first(session, references_of(encoding, ReferenceTypeId::HasDescription)).await? else { return Ok(None) };
        let Some(node) = first(session, inverse(description.clone(), ReferenceTypeId::HasComponent)).await? else { return Ok(None) };
        let mut values = session.read(&[value_of(description), value_of(node.clone())]).await?.into_iter().map(|value| value.value);
        let (Some(Some(Variant::String(name))), Some(Some(Variant::ByteString(xml)))) = (values.next(), values.next()) else {
            return Ok(None);
        };
        let dictionary = match self.dictionaries.get(&node) {
            Some(known) => known.clone(),
            None => {
                let parsed = Dictionary::parse(xml.as_ref()).unwrap_or_else(|Undecodable(what)| {
                    tracing::warn!(%node, what, "structures stay bytes");
                    Dictionary::default()
                });
                let parsed = Arc::new(parsed);
                self.dictionaries.insert(node, parsed.clone());
                parsed
            }
        };
        Ok(self.described(&dictionary, name.as_ref(), &mut HashMap::new(), 0))
    }

    /// Lays a structure of a dictionary out, and those in it.
    fn described(&mut self, dictionary: &Dictionary, name: &str, made: &mut HashMap<String, LayoutId>, depth: u32) -> Option<LayoutId> {
        if let Some(known) = made.get(name) {
            return Some(*known);
        }
        let Described::Structure(shape, members) = dictionary.get(name)? else { return None };
        if depth >= DEEPEST || self.layouts.len() >= MOST_TYPES {
            return None;
        }
        let form = match shape {
            Shape::Plain => Form::Plain,
            Shape::Optional => Form::Optional,
            Shape::Union => Form::Union,
        };
        // Known before its fields are: a structure may contain itself.
        let layout = LayoutId(self.layouts.len());
        self.layouts.push(Layout { form, fields: Vec::new() });
        made.insert(name.to_owned(), layout);
        let mut fields = Vec::with_capacity(members.len());
        for member in members {
            let encoded = match &member.kind {
                Kind::Builtin(id) => Encoded::Builtin(*id),
                Kind::Own(own) => match dictionary.get(own)? {
                    Described::Number(id) => Encoded::Builtin(*id),
                    Described::Structure(..) => Encoded::Structure(self.described(dictionary, own, made, depth + 1)?),
                },
            };
            let rank = if member.is_array { 1 } else { -1 };
            fields.push(Field { name: member.name.replace('/', "%2F").into(), encoded, rank, is_optional: member.is_optional });
        }
        self.layouts[layout.0].fields = fields;
        Some(layout)
    }

    /// A data type, with all that it is made of.
    async fn data_type(&mut self, session: &Session, id: &NodeId) -> Result<Arc<DataType>, Refused> {
        if let Some(known) = self.types.get(id) {
            return Ok(known.clone());
        }
        let (lineage, name, definition) = self.read_type(session, id).await?;
        let mut data_type = DataType { name, builtin: lineage, values: None, layout: None };
        match definition {
            Definition::None => {}
            Definition::Enumeration(values) => data_type.values = Some(values),
            Definition::Structure(structure) if self.layouts.len() < MOST_TYPES => {
                // Known before its fields are: a structure may contain itself.
                let layout = LayoutId(self.layouts.len());
                self.layouts.push(Layout { form: Form::Plain, fields: Vec::new() });
                data_type.layout = Some(layout);
                self.types.insert(id.clone(), Arc::new(data_type.clone()));
                match Box::pin(self.lay_out(session, structure)).await? {
                    Some(made) => self.layouts[layout.0] = made,
                    None => data_type.layout = None,
                }
            }
            Definition::Structure(_) => {}
        }
        let data_type = Arc::new(data_type);
        self.types.insert(id.clone(), data_type.clone());
        Ok(data_type)
    }

    async fn lay_out(&mut self, session: &Session, structure: StructureDefinition) -> Result<Option<Layout>, Refused> {
        let form = match structure.structure_type {
            StructureType::Structure | StructureType::StructureWithSubtypedValues => Form::Plain,
            StructureType::StructureWithOptionalFields => Form::Optional,
            StructureType::Union | StructureType::UnionWithSubtypedValues => Form::Union,
        };
        let subtyped =
            matches!(structure.structure_type, StructureType::StructureWithSubtypedValues | StructureType::UnionWithSubtypedValues);
        let mut fields = Vec::new();
        for field in structure.fields.unwrap_or_default() {
            if fields.len() == MOST_FIELDS {
                return Ok(None);
            }
            let data_type = self.data_type(session, &field.data_type).await?;
            let encoded = match data_type.layout {
                _ if subtyped && field.is_optional && data_type.builtin == builtin::EXTENSION_OBJECT => {
                    Encoded::Builtin(builtin::EXTENSION_OBJECT)
                }
                _ if subtyped && field.is_optional => Encoded::Builtin(builtin::VARIANT),
                Some(layout) => Encoded::Structure(layout),
                None => Encoded::Builtin(data_type.builtin),
            };
            // An abstract structure is written as an extension object; a concrete one whose layout nobody knows can't be passed over.
            let is_opaque =
                data_type.builtin == builtin::EXTENSION_OBJECT && data_type.layout.is_none() && field.data_type != DataTypeId::Structure;
            if is_opaque && !subtyped {
                return Ok(None);
            }
            fields.push(Field {
                name: field.name.as_ref().replace('/', "%2F").into(),
                encoded,
                rank: field.value_rank,
                is_optional: field.is_optional && form == Form::Optional,
            });
        }
        Ok(Some(Layout { form, fields }))
    }

    /// The built-in type, the name, the definition.
    async fn read_type(&self, session: &Session, id: &NodeId) -> Result<(u8, Arc<str>, Definition), Refused> {
        let wanted = [attribute_of(id.clone(), AttributeId::BrowseName), attribute_of(id.clone(), AttributeId::DataTypeDefinition)];
        let mut values = session.read(&wanted).await?.into_iter();
        let name: Arc<str> = match values.next().and_then(|value| value.value) {
            Some(Variant::QualifiedName(name)) => name.name.as_ref().into(),
            _ => id.to_string().into(),
        };
        let definition = values.next().map_or(Definition::None, definition);
        let mut at = id.clone();
        for _ in 0..MOST_SUPERTYPES {
            if let Some(builtin) = builtin_of(&at) {
                let definition = match (builtin, definition) {
                    (builtin::INT32, Definition::None) if at == DataTypeId::Enumeration => enumeration_texts(session, id).await?,
                    (_, definition) => definition,
                };
                return Ok((builtin, name, definition));
            }
            match first(session, inverse(at, ReferenceTypeId::HasSubtype)).await? {
                Some(above) => at = above,
                None => break,
            }
        }
        Ok((builtin::VARIANT, name, definition))
    }

    /// Reads a structure into its leaves.
    pub fn expand(&self, layout: LayoutId, body: &[u8], batch: &mut Batch, leaves: &mut impl Leaves) -> Result<(), Undecodable> {
        let mut path = String::new();
        let mut rows = Vec::new();
        let mut reader = Reader::new(body);
        self.structure(layout, &mut reader, batch, &mut path, &mut rows)?;
        for (path, value, status) in rows {
            leaves.leaf(&path, value, status);
        }
        Ok(())
    }

    fn structure(
        &self,
        layout: LayoutId,
        reader: &mut Reader<'_>,
        batch: &mut Batch,
        path: &mut String,
        rows: &mut Vec<(String, Value, StatusCode)>,
    ) -> Result<(), Undecodable> {
        let layout = &self.layouts[layout.0];
        let mut present = Present::read(layout, reader)?;
        for (index, field) in layout.fields.iter().enumerate() {
            if !present.has(index, field) {
                continue;
            }
            let length = path.len();
            if length > 0 {
                path.push('/');
            }
            path.push_str(&field.name);
            match field.encoded {
                Encoded::Structure(inner) if field.rank < 1 => {
                    reader.nested(|reader| self.structure(inner, reader, batch, path, rows))?;
                }
                _ => {
                    let (value, status) = self.value(field, reader, batch)?;
                    let status = if reader.take_replaced() && status.is_good() { StatusCode::UNCERTAIN } else { status };
                    rows.push((path.clone(), value, status));
                }
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn value(&self, field: &Field, reader: &mut Reader<'_>, batch: &mut Batch) -> Result<(Value, StatusCode), Undecodable> {
        let start = batch.heap.len();
        match field.encoded {
            Encoded::Builtin(builtin::VARIANT | builtin::EXTENSION_OBJECT | builtin::DATA_VALUE | builtin::DIAGNOSTIC_INFO)
            | Encoded::Structure(_) => {
                self.json_field(field, reader, &mut batch.heap)?;
                Ok((Value::Struct(batch.span_from(start)), StatusCode::GOOD))
            }
            Encoded::Builtin(id) if field.rank < 1 => Ok((reader.scalar(id, batch)?, StatusCode::GOOD)),
            Encoded::Builtin(id) if field.rank == 1 => reader.array(id, false, batch),
            Encoded::Builtin(id) => {
                let Some(dims) = matrix(reader)? else { return Ok((Value::Null, StatusCode::GOOD)) };
                let count = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?));
                let count = count.filter(|count| count.checked_mul(least(id)).is_some_and(|bytes| bytes <= reader.rest().len()));
                let count = count.ok_or(Undecodable("a matrix is longer than its message"))?;
                match reader.items(id, count, batch)? {
                    Some(value) => Ok((shape(value, &dims, dims.len(), count, start, batch).unwrap_or(Value::Null), StatusCode::GOOD)),
                    None => Err(Undecodable("a matrix has a null in it")),
                }
            }
        }
    }

    /// Appends a structure as JSON. Returns whether something of a text in it was no UTF-8 and was replaced.
    pub fn json(&self, layout: LayoutId, body: &[u8], out: &mut Vec<u8>) -> Result<bool, Undecodable> {
        let mut reader = Reader::new(body);
        self.json_structure(layout, &mut reader, out)?;
        Ok(reader.take_replaced())
    }

    fn json_structure(&self, layout: LayoutId, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        let layout = &self.layouts[layout.0];
        let mut present = Present::read(layout, reader)?;
        let mut first = true;
        out.push(b'{');
        for (index, field) in layout.fields.iter().enumerate() {
            if !present.has(index, field) {
                continue;
            }
            if !std::mem::replace(&mut first, false) {
                out.push(b',');
            }
            json::quoted(&field.name, out);
            out.push(b':');
            self.json_field(field, reader, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn json_field(&self, field: &Field, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        let count = match field.rank {
            ..1 => return self.json_item(field, reader, out),
            1 => reader.length(1)?,
            _ => match matrix(reader)? {
                None => None,
                Some(dims) => {
                    let count = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?));
                    Some(count.filter(|count| *count <= reader.rest().len()).ok_or(Undecodable("a matrix is longer than its message"))?)
                }
            },
        };
        let Some(count) = count else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        out.push(b'[');
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            self.json_item(field, reader, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn json_item(&self, field: &Field, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        match field.encoded {
            Encoded::Structure(inner) => reader.nested(|reader| self.json_structure(inner, reader, out)),
            Encoded::Builtin(id) => reader.json(id, out),
        }
    }
}

fn inverse(node: NodeId, kind: ReferenceTypeId) -> BrowseDescription {
    BrowseDescription { browse_direction: BrowseDirection::Inverse, ..references_of(node, kind) }
}

/// The node at the other end of the first reference, if there is one.
async fn first(session: &Session, wanted: BrowseDescription) -> Result<Option<NodeId>, Refused> {
    let found = session.browse(&[wanted]).await?.pop().and_then(Result::ok).unwrap_or_default();
    Ok(found.into_iter().next().map(|reference| reference.node_id.node_id))
}

/// Which fields of a structure are there.
enum Present {
    All,
    Mask(u32),
    One(u32),
}

impl Present {
    fn read(layout: &Layout, reader: &mut Reader<'_>) -> Result<Self, Undecodable> {
        Ok(match layout.form {
            Form::Plain => Self::All,
            Form::Optional => Self::Mask(reader.u32()?),
            Form::Union => Self::One(reader.u32()?),
        })
    }

    /// Asked for one field after the other.
    fn has(&mut self, index: usize, field: &Field) -> bool {
        match self {
            Self::All => true,
            Self::One(number) => *number as usize == index + 1,
            Self::Mask(_) if !field.is_optional => true,
            Self::Mask(bits) => {
                let has = *bits & 1 != 0;
                *bits >>= 1;
                has
            }
        }
    }
}

/// The dimensions in front of a matrix in a structure.
fn matrix(reader: &mut Reader<'_>) -> Result<Option<Vec<i32>>, Undecodable> {
    let Some(count) = reader.length(4)? else { return Ok(None) };
    if count > MOST_DIMS {
        return Err(Undecodable("a matrix has too many dimensions"));
    }
    (0..count).map(|_| reader.i32()).collect::<Result<_, _>>().map(Some)
}

enum Definition {
    None,
    Structure(StructureDefinition),
    Enumeration(BTreeMap<String, String>),
}

/// The attribute DataTypeDefinition.
fn definition(value: DataValue) -> Definition {
    let Some(Variant::ExtensionObject(object)) = value.value else { return Definition::None };
    let Some(body) = object.inner_as::<ByteStringBody>() else { return Definition::None };
    let context = ContextOwned::default();
    let mut bytes = body.raw_body().as_ref();
    match body.encoding_id().as_object_id() {
        Ok(opcua::types::ObjectId::StructureDefinition_Encoding_DefaultBinary) => {
            StructureDefinition::decode(&mut bytes, &context.context()).map_or(Definition::None, Definition::Structure)
        }
        Ok(opcua::types::ObjectId::EnumDefinition_Encoding_DefaultBinary) => match EnumDefinition::decode(&mut bytes, &context.context()) {
            Ok(definition) => {
                let fields = definition.fields.unwrap_or_default().into_iter();
                Definition::Enumeration(fields.map(|field| (field.value.to_string(), field.name.as_ref().to_owned())).collect())
            }
            Err(_) => Definition::None,
        },
        _ => Definition::None,
    }
}

/// The texts of an enumeration without a definition: its property EnumStrings.
async fn enumeration_texts(session: &Session, id: &NodeId) -> Result<Definition, Refused> {
    let properties = session.browse(&[references_of(id.clone(), ReferenceTypeId::HasProperty)]).await?.pop().and_then(Result::ok);
    let strings = properties.unwrap_or_default().into_iter().find(|property| property.browse_name.name.as_ref() == "EnumStrings");
    let Some(strings) = strings else { return Ok(Definition::None) };
    let value = session.read(&[value_of(strings.node_id.node_id)]).await?.pop().and_then(|value| value.value);
    let Some(Variant::Array(array)) = value else { return Ok(Definition::None) };
    let text = |value: &Variant| match value {
        Variant::LocalizedText(text) => text.text.as_ref().to_owned(),
        _ => String::new(),
    };
    Ok(Definition::Enumeration(array.values.iter().enumerate().map(|(number, value)| (number.to_string(), text(value))).collect()))
}

/// The built-in type of a standard data type that stands for one.
fn builtin_of(id: &NodeId) -> Option<u8> {
    let Identifier::Numeric(number) = id.identifier else { return None };
    match number {
        _ if id.namespace != 0 => None,
        1..=21 | 23 | 25 => Some(number as u8),
        22 => Some(builtin::EXTENSION_OBJECT),
        // BaseDataType, Number, Integer, UInteger: any.
        24 | 26..=28 => Some(builtin::VARIANT),
        29 => Some(builtin::INT32),
        _ => None,
    }
}

/// A node id from its bytes on the wire.
fn node_id(bytes: &[u8]) -> Option<NodeId> {
    let context = ContextOwned::default();
    let mut bytes = bytes;
    NodeId::decode(&mut bytes, &context.context()).ok()
}

/// Fuzz target: any bytes as a structure that contains itself, expanded and as JSON.
pub fn fuzz_structure(bytes: &[u8]) {
    let field = |name: &str, encoded: Encoded, rank: i32, is_optional: bool| Field { name: name.into(), encoded, rank, is_optional };
    let own = LayoutId(0);
    let fields = || {
        vec![
            field("number", Encoded::Builtin(builtin::INT16), -1, true),
            field("any", Encoded::Builtin(builtin::VARIANT), -1, true),
            field("texts", Encoded::Builtin(builtin::STRING), 1, true),
            field("matrix", Encoded::Builtin(builtin::DOUBLE), 2, true),
            field("inner", Encoded::Structure(own), -1, true),
            field("inners", Encoded::Structure(own), 1, true),
        ]
    };
    struct Count(usize);
    impl Leaves for Count {
        fn leaf(&mut self, path: &str, _: Value, _: StatusCode) {
            assert!(!path.is_empty());
            self.0 += 1;
        }
    }
    for form in [Form::Optional, Form::Union] {
        let types = Types { layouts: vec![Layout { form, fields: fields() }], ..Types::default() };
        let mut batch = Batch::new();
        let read = types.expand(own, bytes, &mut batch, &mut Count(0));
        let mut text = Vec::new();
        let written = types.json(own, bytes, &mut text);
        assert!(written.is_err() || serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
        // A matrix with a null in it is JSON and no leaf.
        assert!(read.is_err() || written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_a_thousand_deep_is_refused_and_nothing_worse() {
        // The fifth optional field, again and again.
        let bytes = 0b1_0000_u32.to_le_bytes().repeat(1_000);
        fuzz_structure(&bytes);
        fuzz_structure(&[]);
        fuzz_structure(&[0xFF; 64]);
    }
}
