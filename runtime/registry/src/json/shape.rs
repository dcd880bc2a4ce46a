//! What a JSON object demands, group by group.

use super::document::Json;
use serde_json::{Map, Value};

/// One group of keywords of one schema.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Facet {
    Whole,
    /// The part that its `type`, or its keywords, say.
    Type,
    /// One of the types of a list.
    Typed(&'static str),
    Enum,
    Const,
    Not,
    AllOf,
    AnyOf,
    OneOf,
    If,
    Ref,
}

/// A facet of a schema, wherever it stands.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub schema: &'a Json,
    pub document: usize,
    pub value: &'a Value,
    pub facet: Facet,
}

impl<'a> Part<'a> {
    /// A schema as a whole.
    pub fn root(schema: &'a Json) -> Self {
        Self { schema, document: 0, value: &schema.documents[0].value, facet: Facet::Whole }
    }
}

/// How the parts of a combination combine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Criterion {
    All,
    Any,
    One,
}

impl Criterion {
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::All => "allOf",
            Self::Any => "anyOf",
            Self::One => "oneOf",
        }
    }
}

/// What a part demands.
pub(super) enum Shape<'a> {
    /// Anything will do.
    Any,
    /// Nothing will do.
    Never,
    Text(&'a Map<String, Value>),
    Number {
        map: &'a Map<String, Value>,
        integer: bool,
    },
    Boolean,
    Null,
    Object(&'a Map<String, Value>),
    Array(&'a Map<String, Value>),
    Enum(&'a [Value]),
    Const(&'a Value),
    Combined(Criterion, Vec<Part<'a>>),
    Not(Part<'a>),
    /// `if` with `then` and `else`.
    Conditional(&'a Map<String, Value>),
}

const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
/// Keywords that tell a type where there is no `type`.
const TELLING: [(&str, &[&str]); 4] = [
    (
        "object",
        &[
            "properties",
            "required",
            "additionalProperties",
            "minProperties",
            "maxProperties",
            "patternProperties",
            "propertyNames",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "unevaluatedProperties",
        ],
    ),
    ("array", &["items", "additionalItems", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"]),
    ("string", &["minLength", "maxLength", "pattern"]),
    ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
];

impl<'a> Part<'a> {
    /// Its identity, for as long as the schema lives.
    pub fn key(&self) -> (usize, Facet) {
        (std::ptr::from_ref(self.value) as usize, self.facet)
    }

    fn of(&self, facet: Facet) -> Self {
        Self { facet, ..*self }
    }

    /// A schema inside this one.
    pub fn inner(&self, value: &'a Value) -> Self {
        Self { value, facet: Facet::Whole, ..*self }
    }

    pub fn shape(&self) -> Shape<'a> {
        let map = match self.value {
            Value::Bool(false) => return Shape::Never,
            Value::Object(map) => map,
            _ => return Shape::Any,
        };
        match self.facet {
            Facet::Whole => self.whole(map),
            Facet::Ref => self.referred(map),
            Facet::Type => self.typed(map),
            Facet::Typed(name) => of_type(name, map),
            Facet::Enum => Shape::Enum(map["enum"].as_array().map_or(&[], Vec::as_slice)),
            Facet::Const => Shape::Const(&map["const"]),
            Facet::Not => Shape::Not(self.inner(&map["not"])),
            Facet::AllOf => self.combined(Criterion::All, map),
            Facet::AnyOf => self.combined(Criterion::Any, map),
            Facet::OneOf => self.combined(Criterion::One, map),
            Facet::If => Shape::Conditional(map),
        }
    }

    fn whole(&self, map: &'a Map<String, Value>) -> Shape<'a> {
        let has_ref = matches!(map.get("$ref"), Some(Value::String(_)));
        if has_ref && self.schema.documents[self.document].ref_is_alone {
            return self.referred(map);
        }
        let mut facets = Vec::new();
        if has_ref {
            facets.push(Facet::Ref);
        }
        for (key, facet) in [
            ("enum", Facet::Enum),
            ("const", Facet::Const),
            ("not", Facet::Not),
            ("allOf", Facet::AllOf),
            ("anyOf", Facet::AnyOf),
            ("oneOf", Facet::OneOf),
            ("if", Facet::If),
        ] {
            if map.contains_key(key) {
                facets.push(facet);
            }
        }
        if map.contains_key("type") || told(map).next().is_some() {
            facets.push(Facet::Type);
        }
        match facets.as_slice() {
            [] => Shape::Any,
            [only] => self.of(*only).shape(),
            several => Shape::Combined(Criterion::All, several.iter().map(|facet| self.of(*facet)).collect()),
        }
    }

    fn referred(&self, map: &'a Map<String, Value>) -> Shape<'a> {
        match map["$ref"].as_str().map(|to| self.schema.follow(self.document, to)) {
            // A schema that refers to nothing but itself demands nothing.
            Some(Ok(Some((_, value)))) if std::ptr::eq(value, self.value) => Shape::Any,
            Some(Ok(Some((document, value)))) => Self { document, value, facet: Facet::Whole, ..*self }.shape(),
            // A meta-schema: any schema. What leads nowhere was refused when the schema was parsed.
            _ => Shape::Any,
        }
    }

    fn typed(&self, map: &'a Map<String, Value>) -> Shape<'a> {
        let several = |criterion, names: &[&'static str]| match names {
            [only] => of_type(only, map),
            several => Shape::Combined(criterion, several.iter().map(|name| self.of(Facet::Typed(name))).collect()),
        };
        match map.get("type") {
            Some(Value::String(name)) => of_type(name, map),
            Some(Value::Array(list)) => {
                let names: Vec<&str> = TYPES.into_iter().filter(|known| list.iter().any(|name| name == known)).collect();
                several(Criterion::Any, &names)
            }
            _ => several(Criterion::All, &told(map).collect::<Vec<_>>()),
        }
    }

    fn combined(&self, criterion: Criterion, map: &'a Map<String, Value>) -> Shape<'a> {
        let list = map[criterion.keyword()].as_array().map_or(&[][..], Vec::as_slice);
        Shape::Combined(criterion, list.iter().map(|one| self.inner(one)).collect())
    }
}

fn told(map: &Map<String, Value>) -> impl Iterator<Item = &'static str> {
    TELLING.iter().filter(|(_, keywords)| keywords.iter().any(|keyword| map.contains_key(*keyword))).map(|(name, _)| *name)
}

fn of_type<'a>(name: &str, map: &'a Map<String, Value>) -> Shape<'a> {
    match name {
        "object" => Shape::Object(map),
        "array" => Shape::Array(map),
        "string" => Shape::Text(map),
        "number" => Shape::Number { map, integer: false },
        "integer" => Shape::Number { map, integer: true },
        "boolean" => Shape::Boolean,
        "null" => Shape::Null,
        _ => Shape::Any,
    }
}
