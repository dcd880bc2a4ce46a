//! Type dictionaries: how servers from before DataTypeDefinition say what their structures are made of.
//!
//! ```text
//! <opc:StructuredType Name="Part">
//!   <opc:Field Name="Serial" TypeName="opc:String"/>
//!   <opc:Field Name="NoOfZones" TypeName="opc:Int32"/>
//!   <opc:Field Name="Zones" TypeName="opc:Double" LengthField="NoOfZones"/>   an array: its length stands right before it
//!   <opc:Field Name="Die" TypeName="tns:Die"/>                               another structure of the dictionary
//! </opc:StructuredType>
//! ```
//!
//! Of XML it reads tags and their attributes; a document type is refused. A structure with anything in it that is not known here has no layout: its
//! bytes stay as they are. Source: OPC 10000-3, annex C (version 1.03); the mask of optional fields, and unions: OPC 10000-6, 5.2.7 and 5.2.8.
//!
//! Invariants: one pass, no recursion; nothing is guessed at.

use crate::wire::{Undecodable, builtin};
use std::borrow::Cow;
use std::collections::HashMap;

/// The types of one dictionary, by their names.
#[derive(Debug, Default)]
pub struct Dictionary {
    types: HashMap<String, Described>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Described {
    /// An enumeration, as the integer that it is.
    Number(u8),
    Structure(Shape, Vec<Member>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Plain,
    Optional,
    Union,
}

/// A field of a structure.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    pub name: String,
    pub kind: Kind,
    pub is_array: bool,
    pub is_optional: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    Builtin(u8),
    /// Another type of the dictionary.
    Own(String),
}

/// A field as it is written.
#[derive(Debug, Default)]
struct Written {
    name: String,
    kind: String,
    length_field: Option<String>,
    switch_field: Option<String>,
    switch_value: Option<String>,
    bits: u32,
}

/// More than any dictionary has.
const MOST_TYPES: usize = 10_000;
const MOST_MEMBERS: usize = 100_000;

impl Dictionary {
    /// Errors: what is no dictionary.
    pub fn parse(xml: &[u8]) -> Result<Self, Undecodable> {
        let xml = std::str::from_utf8(xml).map_err(|_| Undecodable("a type dictionary is no UTF-8"))?;
        let mut dictionary = Self::default();
        let mut open: Option<(String, Vec<Written>)> = None;
        let mut members = 0;
        let mut rest = xml.trim_start_matches('\u{FEFF}');
        while let Some(tag) = next_tag(&mut rest)? {
            match (tag.name, tag.is_end) {
                ("StructuredType", false) => {
                    let name = tag.attribute("Name")?.unwrap_or_default().into_owned();
                    match tag.is_empty {
                        true => dictionary.add(name, Some(Described::Structure(Shape::Plain, Vec::new())))?,
                        false => open = Some((name, Vec::new())),
                    }
                }
                ("StructuredType", true) => {
                    if let Some((name, written)) = open.take() {
                        dictionary.add(name, structure(&written))?;
                    }
                }
                ("Field", false) => {
                    members += 1;
                    if members > MOST_MEMBERS {
                        return Err(Undecodable("a type dictionary has too many fields"));
                    }
                    if let Some((_, written)) = &mut open {
                        written.push(field(&tag)?);
                    }
                }
                ("EnumeratedType", false) => {
                    let name = tag.attribute("Name")?.unwrap_or_default().into_owned();
                    let bits = tag.attribute("LengthInBits")?;
                    let number = match bits.as_deref() {
                        None | Some("32") => Some(Described::Number(builtin::INT32)),
                        Some("16") => Some(Described::Number(builtin::UINT16)),
                        Some("8") => Some(Described::Number(builtin::BYTE)),
                        _ => None,
                    };
                    dictionary.add(name, number)?;
                }
                _ => {}
            }
        }
        Ok(dictionary)
    }

    /// What a name stands for; `None` where it is not known, or not all of it.
    pub fn get(&self, name: &str) -> Option<&Described> {
        self.types.get(name)
    }

    fn add(&mut self, name: String, described: Option<Described>) -> Result<(), Undecodable> {
        if self.types.len() >= MOST_TYPES {
            return Err(Undecodable("a type dictionary has too many types"));
        }
        if let Some(described) = described {
            self.types.insert(name, described);
        }
        Ok(())
    }
}

fn field(tag: &Tag<'_>) -> Result<Written, Undecodable> {
    let text = |name: &str| Ok::<_, Undecodable>(tag.attribute(name)?.map(Cow::into_owned));
    Ok(Written {
        name: text("Name")?.unwrap_or_default(),
        kind: text("TypeName")?.unwrap_or_default(),
        length_field: text("LengthField")?,
        switch_field: text("SwitchField")?,
        switch_value: text("SwitchValue")?,
        bits: text("Length")?.and_then(|length| length.parse().ok()).unwrap_or(1),
    })
}

/// Makes a structure of its fields; `None`: there is something in it that is not known here.
fn structure(written: &[Written]) -> Option<Described> {
    let is_bit = |one: &&Written| one.kind.ends_with(":Bit") || one.kind == "Bit";
    let (bits, fields) = written.split_at(written.iter().take_while(is_bit).count());
    if !bits.is_empty() {
        // A mask of 32 bits, the optional fields in its order.
        if bits.iter().try_fold(0_u32, |sum, bit| sum.checked_add(bit.bits)) != Some(32) {
            return None;
        }
        let members = members(fields, None)?;
        let optional = fields.iter().filter(|one| !is_length(one, fields)).filter_map(|one| one.switch_field.as_deref());
        let named = bits.iter().filter(|bit| bit.bits == 1).map(|bit| bit.name.as_str());
        return optional.zip(named).all(|(field, bit)| field == bit).then_some(Described::Structure(Shape::Optional, members));
    }
    match written {
        [switch, fields @ ..] if !fields.is_empty() && fields.iter().all(|one| one.switch_field.as_deref() == Some(&switch.name)) => {
            let in_turn = fields.iter().filter(|one| !is_length(one, fields)).enumerate();
            let mut numbers = in_turn.map(|(index, one)| one.switch_value.as_deref() == Some((index + 1).to_string().as_str()));
            let is_number = builtin_of(&switch.kind) == Some(builtin::UINT32);
            (is_number && numbers.all(|is_next| is_next))
                .then(|| members(fields, Some(&switch.name)))
                .flatten()
                .map(|members| Described::Structure(Shape::Union, members))
        }
        fields if fields.iter().any(|one| one.switch_field.is_some()) => None,
        fields => members(fields, None).map(|members| Described::Structure(Shape::Plain, members)),
    }
}

fn is_length(one: &Written, fields: &[Written]) -> bool {
    fields.iter().any(|other| other.length_field.as_deref() == Some(&one.name))
}

fn members(fields: &[Written], union: Option<&str>) -> Option<Vec<Member>> {
    let mut members = Vec::with_capacity(fields.len());
    let mut fields = fields.iter().peekable();
    while let Some(mut one) = fields.next() {
        let mut is_array = false;
        if let Some(array) = fields.next_if(|next| next.length_field.as_deref() == Some(&one.name)) {
            if builtin_of(&one.kind) != Some(builtin::INT32) {
                return None;
            }
            (one, is_array) = (array, true);
        } else if one.length_field.is_some() {
            return None;
        }
        let kind = match one.kind.split_once(':') {
            Some(("opc" | "ua", _)) | None => Kind::Builtin(builtin_of(&one.kind)?),
            Some((_, own)) => Kind::Own(own.to_owned()),
        };
        let is_optional = union.is_none() && one.switch_field.is_some();
        members.push(Member { name: one.name.clone(), kind, is_array, is_optional });
    }
    Some(members)
}

fn builtin_of(name: &str) -> Option<u8> {
    let local = name.rsplit_once(':').map_or(name, |(_, local)| local);
    Some(match local {
        "Boolean" => builtin::BOOLEAN,
        "SByte" => builtin::SBYTE,
        "Byte" | "Char" => builtin::BYTE,
        "Int16" => builtin::INT16,
        "UInt16" => builtin::UINT16,
        "Int32" => builtin::INT32,
        "UInt32" => builtin::UINT32,
        "Int64" => builtin::INT64,
        "UInt64" => builtin::UINT64,
        "Float" => builtin::FLOAT,
        "Double" | "Duration" => builtin::DOUBLE,
        "String" | "CharArray" => builtin::STRING,
        "DateTime" | "UtcTime" => builtin::DATE_TIME,
        "Guid" => builtin::GUID,
        "ByteString" => builtin::BYTE_STRING,
        "XmlElement" => builtin::XML_ELEMENT,
        "NodeId" => builtin::NODE_ID,
        "ExpandedNodeId" => builtin::EXPANDED_NODE_ID,
        "StatusCode" => builtin::STATUS_CODE,
        "QualifiedName" => builtin::QUALIFIED_NAME,
        "LocalizedText" => builtin::LOCALIZED_TEXT,
        "ExtensionObject" => builtin::EXTENSION_OBJECT,
        "DataValue" => builtin::DATA_VALUE,
        "Variant" => builtin::VARIANT,
        "DiagnosticInfo" => builtin::DIAGNOSTIC_INFO,
        _ => return None,
    })
}

/// A tag, its name without a prefix.
struct Tag<'x> {
    name: &'x str,
    attributes: &'x str,
    is_end: bool,
    is_empty: bool,
}

const BROKEN: Undecodable = Undecodable("a type dictionary is no well-formed XML");

/// The next tag; comments, texts and processing instructions are passed over.
fn next_tag<'x>(rest: &mut &'x str) -> Result<Option<Tag<'x>>, Undecodable> {
    loop {
        let Some(at) = rest.find('<') else { return Ok(None) };
        *rest = &rest[at + 1..];
        let pass = [("!--", "-->"), ("![CDATA[", "]]>"), ("?", "?>")];
        if let Some((_, end)) = pass.iter().find(|(begin, _)| rest.starts_with(begin)) {
            *rest = rest.split_once(end).ok_or(BROKEN)?.1;
            continue;
        }
        if rest.starts_with('!') {
            return Err(Undecodable("a type dictionary has a document type"));
        }
        // A `>` may stand in an attribute.
        let mut quote = None;
        let end = rest.bytes().position(|byte| match (quote, byte) {
            (None, b'>') => true,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                false
            }
            (Some(open), _) if open == byte => {
                quote = None;
                false
            }
            _ => false,
        });
        let tag = &rest[..end.ok_or(BROKEN)?];
        *rest = &rest[tag.len() + 1..];
        let (tag, is_end) = tag.strip_prefix('/').map_or((tag, false), |tag| (tag, true));
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        let name = name.rsplit_once(':').map_or(name, |(_, local)| local);
        return Ok(Some(Tag { name, attributes, is_end, is_empty }));
    }
}

impl<'x> Tag<'x> {
    fn attribute(&self, wanted: &str) -> Result<Option<Cow<'x, str>>, Undecodable> {
        let mut rest = self.attributes.trim_start();
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=').ok_or(BROKEN)?;
            let after = after.trim_start();
            let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\'')).ok_or(BROKEN)?;
            let (value, after) = after[1..].split_once(quote).ok_or(BROKEN)?;
            if name.trim_end() == wanted {
                return unescaped(value).map(Some);
            }
            rest = after.trim_start();
        }
        Ok(None)
    }
}

fn unescaped(text: &str) -> Result<Cow<'_, str>, Undecodable> {
    if !text.contains('&') {
        return Ok(text.into());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';').ok_or(BROKEN)?;
        out.push_str(before);
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let digits = entity.strip_prefix('#').ok_or(BROKEN)?;
                let number = digits.strip_prefix('x').map_or_else(|| digits.parse(), |hex| u32::from_str_radix(hex, 16));
                number.ok().and_then(char::from_u32).ok_or(BROKEN)?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out.into())
}

/// Fuzz target: any bytes as a dictionary.
pub fn fuzz_opcua_dictionary(bytes: &[u8]) {
    if let Ok(dictionary) = Dictionary::parse(bytes) {
        assert!(dictionary.types.len() <= MOST_TYPES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(inner: &str) -> Dictionary {
        let xml = format!(
            "\u{FEFF}<?xml version=\"1.0\"?><!-- a > b -->\n<opc:TypeDictionary TargetNamespace='urn:x'>{inner}</opc:TypeDictionary>"
        );
        Dictionary::parse(xml.as_bytes()).expect("it is a dictionary")
    }

    fn member(name: &str, kind: Kind) -> Member {
        Member { name: name.into(), kind, is_array: false, is_optional: false }
    }

    #[test]
    fn a_structure_has_its_fields_in_order_with_arrays_and_structures_in_it() {
        let dictionary = parsed(
            "<opc:EnumeratedType Name=\"State\" LengthInBits=\"32\"><opc:EnumeratedValue Name='On' Value='1'/></opc:EnumeratedType>
             <opc:StructuredType Name=\"Die\"><opc:Field Name=\"Id\" TypeName=\"opc:UInt16\"/></opc:StructuredType>
             <opc:StructuredType BaseType='ua:ExtensionObject' Name = 'Part'>
               <opc:Documentation>a <b>part</b></opc:Documentation>
               <opc:Field Name=\"A&amp;B\" TypeName=\"opc:CharArray\" />
               <opc:Field Name=\"NoOfZones\" TypeName=\"opc:Int32\"/><opc:Field Name=\"Zones\" TypeName=\"opc:Double\" LengthField=\"NoOfZones\"/>
               <opc:Field Name=\"Die\" TypeName=\"tns:Die\"/>
             </opc:StructuredType>",
        );
        assert_eq!(dictionary.get("State"), Some(&Described::Number(builtin::INT32)));
        let wanted = vec![
            member("A&B", Kind::Builtin(builtin::STRING)),
            Member { is_array: true, ..member("Zones", Kind::Builtin(builtin::DOUBLE)) },
            member("Die", Kind::Own("Die".into())),
        ];
        assert_eq!(dictionary.get("Part"), Some(&Described::Structure(Shape::Plain, wanted)));
    }

    #[test]
    fn optional_fields_and_unions_are_known_by_their_switches() {
        let dictionary = parsed(
            "<opc:StructuredType Name='Maybe'>
               <opc:Field Name='HasA' TypeName='opc:Bit'/><opc:Field Name='Reserved' TypeName='opc:Bit' Length='31'/>
               <opc:Field Name='Always' TypeName='opc:Byte'/><opc:Field Name='A' TypeName='opc:Int16' SwitchField='HasA'/>
             </opc:StructuredType>
             <opc:StructuredType Name='Either'>
               <opc:Field Name='Which' TypeName='opc:UInt32'/>
               <opc:Field Name='A' TypeName='opc:Byte' SwitchField='Which' SwitchValue='1'/>
               <opc:Field Name='B' TypeName='opc:Double' SwitchField='Which' SwitchValue='2'/>
             </opc:StructuredType>",
        );
        let optional = Member { is_optional: true, ..member("A", Kind::Builtin(builtin::INT16)) };
        let maybe = vec![member("Always", Kind::Builtin(builtin::BYTE)), optional];
        assert_eq!(dictionary.get("Maybe"), Some(&Described::Structure(Shape::Optional, maybe)));
        let either = vec![member("A", Kind::Builtin(builtin::BYTE)), member("B", Kind::Builtin(builtin::DOUBLE))];
        assert_eq!(dictionary.get("Either"), Some(&Described::Structure(Shape::Union, either)));
    }

    #[test]
    fn what_is_not_known_has_no_layout_and_the_others_have_theirs() {
        let dictionary = parsed(
            "<opc:StructuredType Name='Bits'><opc:Field Name='a' TypeName='opc:Bit'/></opc:StructuredType>
             <opc:StructuredType Name='Length'><opc:Field Name='a' TypeName='opc:Byte' LengthField='elsewhere'/></opc:StructuredType>
             <opc:StructuredType Name='Foreign'><opc:Field Name='a' TypeName='ua:Argument'/></opc:StructuredType>
             <opc:StructuredType Name='Switched'><opc:Field Name='n' TypeName='opc:Byte'/><opc:Field Name='m' TypeName='opc:Byte'/>
               <opc:Field Name='a' TypeName='opc:Byte' SwitchField='n'/></opc:StructuredType>
             <opc:StructuredType Name='Empty'/>",
        );
        for name in ["Bits", "Length", "Foreign", "Switched", "Nobody"] {
            assert_eq!(dictionary.get(name), None, "{name}");
        }
        assert_eq!(dictionary.get("Empty"), Some(&Described::Structure(Shape::Plain, Vec::new())));
    }

    #[test]
    fn hostile_dictionaries_are_refused_and_nothing_worse() {
        for xml in
            ["<!DOCTYPE x [<!ENTITY a 'b'>]>", "<a b", "<!--", "<opc:Field Name=x>", "<opc:StructuredType Name='&nobody;'>", "\u{0}<"]
        {
            let wrapped = format!("<opc:StructuredType Name='a'>{xml}");
            assert!(Dictionary::parse(wrapped.as_bytes()).is_err(), "{xml}");
        }
        assert!(Dictionary::parse(&[0xFF, 0xFE]).is_err());
        assert!(Dictionary::parse("<a>".repeat(100_000).as_bytes()).is_ok());
        assert!(Dictionary::parse("<opc:EnumeratedType Name='x'/>".repeat(100).as_bytes()).is_ok());
        fuzz_opcua_dictionary(b"");
    }
}
