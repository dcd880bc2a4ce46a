//! `$metadata`: which entity sets, types and actions a service has.
//!
//! ```text
//! <edmx:Edmx Version="4.0"> <edmx:DataServices> <Schema Namespace="plant" Alias="p">
//!   <EntityType Name="Order"> <Key><PropertyRef Name="ID"/></Key> <Property Name="ID" Type="Edm.String" .../> <NavigationProperty .../>
//!   <ComplexType ..>  <EnumType ..>  <TypeDefinition ..>  <Action ..>     V2: <Association ..>
//!   <EntityContainer> <EntitySet Name="Orders" EntityType="plant.Order"/> <ActionImport ../>     V2: <FunctionImport ../>
//! ```
//!
//! Source: OData CSDL XML 4.01; OData 2.0 CSDL, and SAP's annotations `sap:..`.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::collections::HashMap;

/// The protocol's versions that differ in JSON and in URLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V2,
    V4,
}

/// A primitive type, or a name to be looked up.
#[derive(Clone, PartialEq, Debug)]
pub enum Edm {
    Text,
    Bool,
    /// 8 to 32 bits.
    Int,
    Int64,
    /// Digits, and how many of them behind the point; `None`: any number.
    Decimal(Option<(u32, u32)>),
    Double,
    Date,
    /// V2's time without a zone; `true`: SAP says that it is a date.
    DateTime(bool),
    /// With so many digits behind the second.
    DateTimeOffset(u32),
    TimeOfDay,
    /// V2's time of day, written as a duration.
    Time,
    Duration,
    Guid,
    Binary,
    Stream,
    /// A complex type, an enumeration, an entity type: by its full name.
    Named(String),
    List(Box<Edm>),
    /// A type that is not known here, by its name.
    Unknown(String),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Property {
    pub name: String,
    pub of: Edm,
    /// Only there where it is expanded.
    pub is_navigation: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Structure {
    pub base: Option<String>,
    pub keys: Vec<String>,
    pub properties: Vec<Property>,
}

/// What can be called with POST.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Action {
    pub parameters: Vec<Property>,
    pub is_bound: bool,
    /// Of V2: `GET` or `POST`; parameters stand in the URL.
    pub method: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Metadata {
    pub version: Version,
    /// Entity sets, and the full name of their type, in order.
    pub sets: Vec<(String, String)>,
    pub structures: HashMap<String, Structure>,
    enums: HashMap<String, ()>,
    definitions: HashMap<String, Edm>,
    /// By full name, and by the name of an import.
    pub actions: HashMap<String, Action>,
}

/// What is wrong with a `$metadata` document.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("$metadata is unusable: {0}")]
pub struct BadMetadata(pub String);

/// Elements nest this deep at most.
const DEPTH: usize = 32;

impl Metadata {
    /// Parses a document.
    ///
    /// Errors: it is not XML, not EDMX, or has no entity set.
    pub fn parse(text: &str) -> Result<Self, BadMetadata> {
        let mut parser = Parser::default();
        let mut reader = Reader::from_str(text);
        let mut depth = 0;
        loop {
            match reader.read_event().map_err(|error| BadMetadata(format!("it is not XML at byte {}: {error}", reader.error_position())))? {
                Event::Start(element) => {
                    depth += 1;
                    if depth > DEPTH {
                        return Err(BadMetadata(format!("elements nest deeper than {DEPTH}")));
                    }
                    parser.open(&element)?;
                }
                Event::Empty(element) => {
                    parser.open(&element)?;
                    parser.close(local(element.name().as_ref()));
                }
                Event::End(element) => {
                    depth -= 1;
                    parser.close(local(element.name().as_ref()));
                }
                Event::Eof if depth > 0 => return Err(BadMetadata("it ends in the middle".into())),
                Event::Eof => break,
                _ => {}
            }
        }
        parser.finish()
    }

    /// The full name of the type of an entity set.
    pub fn type_of_set(&self, set: &str) -> Option<&str> {
        self.sets.iter().find(|(name, _)| name == set).map(|(_, name)| name.as_str())
    }

    /// The properties of a type, those of its base types first, and its keys.
    pub fn structure(&self, name: &str) -> Option<Structure> {
        let mut found = self.structures.get(name)?.clone();
        for _ in 0..DEPTH {
            let Some(base) = found.base.take().and_then(|base| self.structures.get(&base)) else { break };
            found.properties = base.properties.iter().cloned().chain(found.properties).collect();
            if found.keys.is_empty() {
                found.keys = base.keys.clone();
            }
            found.base = base.base.clone();
        }
        Some(found)
    }

    /// What a name stands for, through type definitions; an enumeration is a text.
    pub fn resolve(&self, edm: &Edm) -> Edm {
        match edm {
            Edm::Named(name) if self.structures.contains_key(name) => edm.clone(),
            Edm::Named(name) if self.enums.contains_key(name) => Edm::Text,
            Edm::Named(name) => self.definitions.get(name).cloned().unwrap_or_else(|| Edm::Unknown(name.clone())),
            Edm::List(item) => Edm::List(Box::new(self.resolve(item))),
            _ => edm.clone(),
        }
    }
}

fn local(name: &[u8]) -> &str {
    let name = std::str::from_utf8(name).unwrap_or_default();
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

#[derive(Default)]
struct Parser {
    version: Option<Version>,
    namespace: String,
    aliases: Vec<(String, String)>,
    sets: Vec<(String, String)>,
    structures: HashMap<String, Structure>,
    enums: HashMap<String, ()>,
    definitions: HashMap<String, Edm>,
    actions: HashMap<String, Action>,
    imports: Vec<(String, String)>,
    /// V2: relationship and role to the type at that end; `true`: many.
    ends: HashMap<(String, String), (String, bool)>,
    /// V2: navigation properties to be resolved: type, property, relationship, role.
    navigations: Vec<(String, String, String, String)>,
    open_structure: Option<String>,
    open_action: Option<String>,
    open_association: Option<String>,
    in_key: bool,
}

impl Parser {
    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), BadMetadata> {
        let attribute = |name: &str| -> Option<String> {
            element.attributes().flatten().find(|a| local(a.key.as_ref()) == name).and_then(|a| Some(a.unescape_value().ok()?.into_owned()))
        };
        let name = attribute("Name").unwrap_or_default();
        let full = |name: &str| format!("{}.{name}", self.namespace);
        match local(element.name().as_ref()) {
            "Edmx" => {
                let version = attribute("Version").unwrap_or_default();
                self.version = Some(if version.starts_with('4') { Version::V4 } else { Version::V2 });
            }
            "Schema" => {
                self.namespace = attribute("Namespace").unwrap_or_default();
                if let Some(alias) = attribute("Alias") {
                    self.aliases.push((alias, self.namespace.clone()));
                }
            }
            "EntityType" | "ComplexType" => {
                let full = full(&name);
                self.structures.insert(full.clone(), Structure { base: attribute("BaseType"), ..Structure::default() });
                self.open_structure = Some(full);
            }
            "EnumType" => _ = self.enums.insert(full(&name), ()),
            "TypeDefinition" => {
                let under = attribute("UnderlyingType").unwrap_or_default();
                self.definitions.insert(full(&name), edm(&under, &attribute));
            }
            "Key" => self.in_key = true,
            "PropertyRef" if self.in_key => {
                if let Some(structure) = self.open_structure.as_ref().and_then(|open| self.structures.get_mut(open)) {
                    structure.keys.push(name);
                }
            }
            "Property" => {
                let of = edm(&attribute("Type").unwrap_or_default(), &attribute);
                self.property(Property { name, of, is_navigation: false });
            }
            "NavigationProperty" => match attribute("Type") {
                Some(of) => self.property(Property { name, of: edm(&of, &attribute), is_navigation: true }),
                None => {
                    let relation = (attribute("Relationship").unwrap_or_default(), attribute("ToRole").unwrap_or_default());
                    if let Some(open) = self.open_structure.clone() {
                        self.navigations.push((open, name.clone(), relation.0, relation.1));
                    }
                    self.property(Property { name, of: Edm::Unknown("navigation".into()), is_navigation: true });
                }
            },
            "Association" => self.open_association = Some(full(&name)),
            "End" => {
                if let (Some(association), Some(of)) = (&self.open_association, attribute("Type")) {
                    let many = attribute("Multiplicity").as_deref() == Some("*");
                    self.ends.insert((association.clone(), attribute("Role").unwrap_or_default()), (of, many));
                }
            }
            "EntitySet" => {
                if let Some(of) = attribute("EntityType") {
                    self.sets.push((name, of));
                }
            }
            "Action" => {
                let full = full(&name);
                let is_bound = attribute("IsBound").as_deref() == Some("true");
                self.actions.insert(full.clone(), Action { is_bound, ..Action::default() });
                self.open_action = Some(full);
            }
            "Parameter" => {
                let of = edm(&attribute("Type").unwrap_or_default(), &attribute);
                if let Some(action) = self.open_action.as_ref().and_then(|open| self.actions.get_mut(open)) {
                    action.parameters.push(Property { name, of, is_navigation: false });
                }
            }
            "ActionImport" => self.imports.push((name, attribute("Action").unwrap_or_default())),
            "FunctionImport" if self.version == Some(Version::V2) => {
                let method = Some(attribute("HttpMethod").unwrap_or_else(|| "GET".into()));
                self.actions.insert(name.clone(), Action { method, ..Action::default() });
                self.open_action = Some(name);
            }
            _ if self.version.is_none() => {
                return Err(BadMetadata(format!("it begins with `{}` instead of `Edmx`", local(element.name().as_ref()))));
            }
            _ => {}
        }
        Ok(())
    }

    fn property(&mut self, property: Property) {
        if let Some(structure) = self.open_structure.as_ref().and_then(|open| self.structures.get_mut(open)) {
            structure.properties.push(property);
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "EntityType" | "ComplexType" => self.open_structure = None,
            "Action" | "FunctionImport" => self.open_action = None,
            "Association" => self.open_association = None,
            "Key" => self.in_key = false,
            _ => {}
        }
    }

    fn finish(mut self) -> Result<Metadata, BadMetadata> {
        let version = self.version.ok_or_else(|| BadMetadata("it is not an EDMX document".into()))?;
        if self.sets.is_empty() {
            return Err(BadMetadata("it has no entity set; is the endpoint the root of a service?".into()));
        }
        for (structure, property, relationship, role) in std::mem::take(&mut self.navigations) {
            let end = self.ends.get(&(self.unalias(&relationship), role)).cloned();
            let Some((of, many)) = end else { continue };
            let of = Edm::Named(of);
            let of = if many { Edm::List(Box::new(of)) } else { of };
            let properties = self.structures.get_mut(&structure).map(|structure| &mut structure.properties);
            if let Some(found) = properties.and_then(|all| all.iter_mut().find(|one| one.name == property)) {
                found.of = of;
            }
        }
        let mut structures = std::mem::take(&mut self.structures);
        for structure in structures.values_mut() {
            structure.base = structure.base.as_ref().map(|base| self.unalias(base));
            for property in &mut structure.properties {
                self.unalias_type(&mut property.of);
            }
        }
        let mut actions = std::mem::take(&mut self.actions);
        for parameter in actions.values_mut().flat_map(|action| &mut action.parameters) {
            self.unalias_type(&mut parameter.of);
        }
        for (import, action) in &self.imports {
            if let Some(action) = actions.get(&self.unalias(action)).cloned() {
                actions.insert(import.clone(), action);
            }
        }
        let sets = self.sets.iter().map(|(name, of)| (name.clone(), self.unalias(of))).collect();
        Ok(Metadata { version, sets, structures, enums: self.enums, definitions: self.definitions, actions })
    }

    fn unalias(&self, name: &str) -> String {
        let Some((prefix, local)) = name.rsplit_once('.') else { return name.to_owned() };
        self.aliases.iter().find(|(alias, _)| alias == prefix).map_or_else(|| name.to_owned(), |(_, full)| format!("{full}.{local}"))
    }

    fn unalias_type(&self, of: &mut Edm) {
        match of {
            Edm::Named(name) => *name = self.unalias(name),
            Edm::List(item) => self.unalias_type(item),
            _ => {}
        }
    }
}

fn edm(name: &str, attribute: &impl Fn(&str) -> Option<String>) -> Edm {
    if let Some(item) = name.strip_prefix("Collection(").and_then(|rest| rest.strip_suffix(')')) {
        return Edm::List(Box::new(edm(item, attribute)));
    }
    let number = |name: &str| attribute(name).and_then(|text| text.trim().parse::<u32>().ok());
    match name {
        "Edm.String" => Edm::Text,
        "Edm.Boolean" => Edm::Bool,
        "Edm.Byte" | "Edm.SByte" | "Edm.Int16" | "Edm.Int32" => Edm::Int,
        "Edm.Int64" => Edm::Int64,
        "Edm.Decimal" => match (number("Precision"), number("Scale"), attribute("Scale")) {
            (Some(precision), Some(scale), _) if precision > 0 && scale <= precision => Edm::Decimal(Some((precision, scale))),
            (Some(precision), None, None) if precision > 0 => Edm::Decimal(Some((precision, 0))),
            _ => Edm::Decimal(None),
        },
        "Edm.Single" | "Edm.Double" => Edm::Double,
        "Edm.Date" => Edm::Date,
        "Edm.DateTime" => Edm::DateTime(attribute("display-format").as_deref() == Some("Date")),
        "Edm.DateTimeOffset" => Edm::DateTimeOffset(number("Precision").unwrap_or(0)),
        "Edm.TimeOfDay" => Edm::TimeOfDay,
        "Edm.Time" => Edm::Time,
        "Edm.Duration" => Edm::Duration,
        "Edm.Guid" => Edm::Guid,
        "Edm.Binary" => Edm::Binary,
        "Edm.Stream" => Edm::Stream,
        other if other.starts_with("Edm.") || other.is_empty() => Edm::Unknown(other.to_owned()),
        other => Edm::Named(other.to_owned()),
    }
}
