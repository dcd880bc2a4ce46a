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
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
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
        let mut reader = Reader::from_str(xml.trim_start_matches('\u{FEFF}'));
        // Whether tags match is no question of ours; what is not closed at the end was never asked for.
        reader.config_mut().check_end_names = false;
        reader.config_mut().allow_unmatched_ends = true;
        let mut dictionary = Self::default();
        let mut open: Option<(String, Vec<Written>)> = None;
        let mut members = 0;
        loop {
            let event = reader.read_event().map_err(|_| BROKEN)?;
            match event {
                Event::Eof => return Ok(dictionary),
                Event::DocType(_) => return Err(Undecodable("a type dictionary has a document type")),
                Event::Empty(tag) if tag.local_name().as_ref() == b"StructuredType" => {
                    dictionary.add(name_of(&tag)?, Some(Described::Structure(Shape::Plain, Vec::new())))?;
                }
                Event::Start(tag) if tag.local_name().as_ref() == b"StructuredType" => open = Some((name_of(&tag)?, Vec::new())),
                Event::End(tag) if tag.local_name().as_ref() == b"StructuredType" => {
                    if let Some((name, written)) = open.take() {
                        dictionary.add(name, structure(&written))?;
                    }
                }
                Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                    b"Field" => {
                        members += 1;
                        if members > MOST_MEMBERS {
                            return Err(Undecodable("a type dictionary has too many fields"));
                        }
                        if let Some((_, written)) = &mut open {
                            written.push(field(&tag)?);
                        }
                    }
                    b"EnumeratedType" => {
                        let number = match attribute(&tag, "LengthInBits")?.as_deref() {
                            None | Some("32") => Some(Described::Number(builtin::INT32)),
                            Some("16") => Some(Described::Number(builtin::UINT16)),
                            Some("8") => Some(Described::Number(builtin::BYTE)),
                            _ => None,
                        };
                        dictionary.add(name_of(&tag)?, number)?;
                    }
                    _ => {}
                },
                _ => {}
            }
        }
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

const BROKEN: Undecodable = Undecodable("a type dictionary is no well-formed XML");

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, Undecodable> {
    let Some(attribute) = tag.try_get_attribute(name).map_err(|_| BROKEN)? else { return Ok(None) };
    attribute.unescape_value().map(|text| Some(text.into_owned())).map_err(|_| BROKEN)
}

fn name_of(tag: &BytesStart<'_>) -> Result<String, Undecodable> {
    Ok(attribute(tag, "Name")?.unwrap_or_default())
}

fn field(tag: &BytesStart<'_>) -> Result<Written, Undecodable> {
    Ok(Written {
        name: name_of(tag)?,
        kind: attribute(tag, "TypeName")?.unwrap_or_default(),
        length_field: attribute(tag, "LengthField")?,
        switch_field: attribute(tag, "SwitchField")?,
        switch_value: attribute(tag, "SwitchValue")?,
        bits: attribute(tag, "Length")?.and_then(|length| length.parse().ok()).unwrap_or(1),
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
