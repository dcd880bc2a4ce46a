//! An entity by the key of its record, as a condition of a filter: `(Plant eq '1010' and Order eq '4711')`. No I/O.

use crate::literal;
use crate::metadata::Version;
use crate::set::Set;
use crate::shape::{Record, Shape};
use millrace_kit::Template;
use serde_json::Value;

/// How an entity is asked for by the key of its record.
#[derive(Debug)]
pub(crate) struct Asking {
    template: Template,
    properties: Vec<(String, Shape)>,
}

impl Asking {
    /// Whether the properties of a key can be told apart in it.
    pub fn is_possible(template: &Template) -> bool {
        let mut key = Vec::new();
        // One that is part of no text between them.
        let filled = template.render(&mut key, |_, out| {
            out.push(0);
            Ok::<_, std::convert::Infallible>(())
        });
        filled.is_ok() && std::str::from_utf8(&key).is_ok_and(|key| template.take_apart(key).is_some())
    }

    /// `None`: the key has a property that cannot stand in a filter, or is none that can be taken apart.
    pub fn new(set: &Set, names: &[String], record: &Record) -> Option<Self> {
        let template = match &set.key {
            Some(template) => template.clone(),
            None => {
                Template::read(&names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join("/"), |name| Ok(name.to_owned()))
                    .ok()?
            }
        };
        let property = |name: &String| {
            let shape = record.fields[record.index(name)?].shape.clone();
            let is_comparable = matches!(
                shape,
                Shape::Text
                    | Shape::Guid
                    | Shape::Bool
                    | Shape::Int
                    | Shape::Long
                    | Shape::Decimal(_)
                    | Shape::Date
                    | Shape::DateOfMoment
                    | Shape::LocalTime
                    | Shape::Moment(_)
            );
            is_comparable.then(|| (name.clone(), shape))
        };
        let properties = names.iter().map(property).collect::<Option<Vec<_>>>()?;
        Self::is_possible(&template).then_some(Self { template, properties })
    }

    /// `None`: it may be one of several.
    pub fn condition(&self, key: &[u8], version: Version) -> Option<String> {
        let values = self.template.take_apart(std::str::from_utf8(key).ok()?)?;
        let equals = |(value, (name, shape)): (&str, &(String, Shape))| {
            Some(format!("{name} eq {}", literal::of(&Value::String(value.to_owned()), shape, version)?))
        };
        let all = values.into_iter().zip(&self.properties).map(equals).collect::<Option<Vec<_>>>()?;
        Some(format!("({})", all.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_kit::shape::Field;

    fn asking(template: &str, shape: Shape) -> Asking {
        let template = Template::read(template, |name| Ok(name.to_owned())).unwrap();
        let properties = template.names().map(|name| (name.to_owned(), shape.clone())).collect();
        Asking { template, properties }
    }

    #[test]
    fn an_entity_is_asked_for_by_the_parts_of_its_key_as_each_version_writes_them() {
        let texts = asking("{Plant}/{Order}", Shape::Text);
        assert_eq!(texts.condition(b"1010/it's", Version::V4).as_deref(), Some("(Plant eq '1010' and Order eq 'it''s')"));
        assert_eq!(texts.condition(b"10/10/4711", Version::V4), None, "10 and 10/4711, or 10/10 and 4711");
        assert_eq!(asking("{ID}", Shape::Long).condition(b"5", Version::V2).as_deref(), Some("(ID eq 5L)"));
        assert_eq!(asking("{ID}", Shape::Text).condition(b"a/b", Version::V2).as_deref(), Some("(ID eq 'a/b')"));
        assert!(!Asking::is_possible(&Template::read("{a}{b}", |name| Ok(name.to_owned())).unwrap()));
        assert!(!Asking::is_possible(&Template::read("all", |name| Ok(name.to_owned())).unwrap()));
    }

    #[test]
    fn a_key_of_bytes_cannot_be_asked_for() {
        let mut record = Record::new("Order");
        record.push(Field { name: "ID".into(), shape: Shape::Binary, is_key: true });
        let set = Set {
            name: "Orders".into(),
            every: std::time::Duration::from_secs(1),
            key: None,
            watermark: None,
            overlap: std::time::Duration::ZERO,
            select: Vec::new(),
            filter: None,
            expand: Vec::new(),
            page: 1,
            wants_delta: false,
            left_filter: Default::default(),
            reconcile_every: None,
        };
        assert!(Asking::new(&set, &["ID".into()], &record).is_none());
    }
}
