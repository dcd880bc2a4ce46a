//! What the entities of a set look like in Kafka: which fields of which types, as `$metadata`, `$select` and `$expand` have it.
//!
//! | EDM | in the document | in Avro |
//! |---|---|---|
//! | String, enumerations, Duration | text | string |
//! | Guid | text | string, uuid |
//! | Boolean | true, false | boolean |
//! | Byte, SByte, Int16, Int32 | number | int |
//! | Int64 | number, exact | long |
//! | Decimal(p, s) | number, exact | bytes, decimal(p, s) |
//! | Decimal of any scale | text, exact | string |
//! | Single, Double | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` | double |
//! | Date; V2 DateTime that is a date | `2026-07-01` | int, date |
//! | V2 DateTime | `2026-07-01T08:00:00` | long, local-timestamp-micros |
//! | DateTimeOffset, up to 6 digits of a second | `2026-07-01T08:00:00Z` | long, timestamp-micros |
//! | DateTimeOffset, finer | the same | string: nanoseconds of 64 bits end in 2262, and `9999-12-31` is usual |
//! | TimeOfDay, V2 Time | `13:20:00` | long, time-micros |
//! | Binary | base64 | bytes |
//! | complex types, expanded entities | object, array | record, array |
//! | a type not known here | its JSON as text | string |
//!
//! Every field but a key may be null or left out: services send partial entities, and metadata is often wrong about it.

use crate::metadata::{Edm, Metadata, Property};
use millrace_config::Reason;
pub use millrace_kit::shape::{Field, Record, Shape};

/// Types nest this deep; deeper ones, and those that contain themselves, become JSON as text.
const DEPTH: usize = 12;

/// The entities of a type. `select` and `expand`: as in the configuration, empty for all and for none.
///
/// Errors: a name that is not there, with those that are.
pub fn of(metadata: &Metadata, type_name: &str, select: &[String], expand: &[String]) -> Result<Record, Reason> {
    let structure = metadata.structure(type_name).ok_or_else(|| format!("$metadata has no type {type_name}"))?;
    let mut unknown = select.iter().chain(expand).map(|path| top(path));
    if let Some(name) = unknown.find(|name| !structure.properties.iter().any(|property| property.name == *name)) {
        let names: Vec<_> = structure.properties.iter().map(|property| property.name.as_str()).collect();
        return Err(format!("{type_name} has no property `{name}`; it has {}", names.join(", ")).into());
    }
    build(metadata, type_name, &last(type_name), select, expand, 0).ok_or_else(|| format!("$metadata has no type {type_name}").into())
}

fn build(metadata: &Metadata, type_name: &str, name: &str, select: &[String], expand: &[String], depth: usize) -> Option<Record> {
    let structure = metadata.structure(type_name)?;
    let is_selected = |property: &Property| {
        select.is_empty() || structure.keys.contains(&property.name) || select.iter().any(|path| top(path) == property.name)
    };
    let mut record = Record::new(name);
    for property in &structure.properties {
        let below: Vec<String> =
            expand.iter().filter(|path| top(path) == property.name).filter_map(|path| Some(path.split_once('/')?.1.to_owned())).collect();
        let is_wanted = match property.is_navigation {
            true => expand.iter().any(|path| top(path) == property.name),
            false => is_selected(property) && property.of != Edm::Stream,
        };
        if is_wanted {
            let shape = shape(metadata, &property.of, &format!("{name}_{}", property.name), &below, depth + 1);
            record.push(Field { name: property.name.clone(), shape, is_key: structure.keys.contains(&property.name) });
        }
    }
    record.keys = structure.keys.iter().filter_map(|key| record.index(key)).collect();
    Some(record)
}

/// The parameters of an action.
pub fn of_parameters(metadata: &Metadata, name: &str, parameters: &[Property]) -> Record {
    let mut record = Record::new(last(name));
    for parameter in parameters {
        let shape = shape(metadata, &parameter.of, &format!("{}_{}", record.name, parameter.name), &[], 1);
        record.push(Field { name: parameter.name.clone(), shape, is_key: false });
    }
    record
}

fn shape(metadata: &Metadata, of: &Edm, name: &str, expand: &[String], depth: usize) -> Shape {
    match metadata.resolve(of) {
        Edm::Text | Edm::Duration => Shape::Text,
        Edm::Bool => Shape::Bool,
        Edm::Int => Shape::Int,
        Edm::Int64 => Shape::Long,
        Edm::Decimal(digits) => Shape::Decimal(digits),
        Edm::Double => Shape::Double,
        Edm::Date => Shape::Date,
        Edm::DateTime(true) => Shape::DateOfMoment,
        Edm::DateTime(false) => Shape::LocalTime,
        Edm::DateTimeOffset(digits) => Shape::Moment(digits),
        Edm::TimeOfDay => Shape::TimeOfDay,
        Edm::Time => Shape::Time,
        Edm::Guid => Shape::Guid,
        Edm::Binary => Shape::Binary,
        Edm::List(item) => Shape::List(Box::new(shape(metadata, &item, name, expand, depth))),
        Edm::Named(type_name) if depth < DEPTH => {
            build(metadata, &type_name, name, &[], expand, depth).map_or(Shape::Json, |record| Shape::Record(Box::new(record)))
        }
        Edm::Named(_) | Edm::Unknown(_) | Edm::Stream => Shape::Json,
    }
}

/// The first step of a path.
fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn last(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}
