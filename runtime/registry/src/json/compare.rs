//! What a reader's JSON Schema refuses of what a writer's let through: Confluent's difference rules, strict.
//!
//! `old` is what was written with, `new` what reads, whichever of them is the newer version. An object whose additional properties are not
//! restricted is an open content model: anything may stand in a record already, so a property can't be added with a schema of its own.

use super::document::Json;
use super::shape::{Criterion, Facet, Part, Shape};
use crate::difference::{Difference, Differences, Pairs, append};
use millrace_config::Reason;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::rc::Rc;

type Known = Pairs<((usize, Facet), (usize, Facet))>;
type Object = Map<String, Value>;
/// A schema and its keywords.
type Side<'a> = (Part<'a>, &'a Object);

/// What keeps `reader` from taking what `writer` took; empty: nothing. Errors: the schemas are too large to compare.
pub(crate) fn incompatibilities(reader: &Json, writer: &Json) -> Result<Differences, Reason> {
    let found = Pairs::settle(|known| Ok(pair(known, Part::root(writer), Part::root(reader))?.to_vec()))?;
    let placed = |one: Difference| Difference { path: if one.path.is_empty() { "#/".into() } else { format!("#{}", one.path) }, ..one };
    Ok(found.into_iter().map(placed).collect())
}

fn pair(known: &mut Known, old: Part<'_>, new: Part<'_>) -> Result<Rc<Differences>, Reason> {
    known.pair((old.key(), new.key()), |known| differences(known, old, new))
}

/// Appends what is wrong with two schemas that stand at `path`; says whether anything is.
fn compare(known: &mut Known, old: Part<'_>, new: Part<'_>, path: &str, found: &mut Differences) -> Result<bool, Reason> {
    let wrong = pair(known, old, new)?;
    append(found, &wrong, path);
    Ok(!wrong.is_empty())
}

fn differences(known: &mut Known, old: Part<'_>, new: Part<'_>) -> Result<Differences, Reason> {
    let (was, is) = (old.shape(), new.shape());
    match (&was, &is) {
        (Shape::Combined(..), Shape::Combined(..)) => {}
        (_, Shape::Combined(criterion, parts)) if parts.len() == 1 || *criterion != Criterion::All => {
            for part in parts {
                if pair(known, old, *part)?.is_empty() {
                    return Ok(Vec::new());
                }
            }
        }
        (Shape::Combined(criterion, parts), _) if parts.len() == 1 || *criterion == Criterion::All => {
            for part in parts {
                if pair(known, *part, new)?.is_empty() {
                    return Ok(Vec::new());
                }
            }
        }
        _ => {}
    }
    let mut found = Vec::new();
    match (was, is) {
        (Shape::Never, _) | (_, Shape::Any) | (Shape::Boolean, Shape::Boolean) | (Shape::Null, Shape::Null) => {}
        (Shape::Text(was), Shape::Text(is)) => text(was, is, &mut found),
        (Shape::Number { map: was, integer: whole }, Shape::Number { map: is, integer }) => {
            number(was, is, &mut found);
            if integer && !whole {
                say(&mut found, "TYPE_NARROWED", "");
            }
        }
        (Shape::Const(was), Shape::Const(is)) => {
            if was != is {
                say(&mut found, "ENUM_ARRAY_CHANGED", "/const");
            }
        }
        (Shape::Enum(was), Shape::Enum(is)) => {
            if !was.iter().all(|one| is.contains(one)) {
                let narrowed = is.iter().all(|one| was.contains(one));
                say(&mut found, if narrowed { "ENUM_ARRAY_NARROWED" } else { "ENUM_ARRAY_CHANGED" }, "/enum");
            }
        }
        (Shape::Combined(was, old), Shape::Combined(is, new)) => combined(known, (was, old), (is, new), &mut found)?,
        (Shape::Not(was), Shape::Not(is)) => {
            // What must not be: the other way round.
            if !pair(known, is, was)?.is_empty() {
                say(&mut found, "NOT_TYPE_EXTENDED", "/not");
            }
        }
        (Shape::Object(was), Shape::Object(is)) => object(known, (old, was), (new, is), &mut found)?,
        (Shape::Array(was), Shape::Array(is)) => array(known, (old, was), (new, is), &mut found)?,
        (Shape::Conditional(was), Shape::Conditional(is)) => {
            // No rule says what a changed condition breaks: any change counts.
            if ["if", "then", "else"].iter().any(|key| was.get(*key) != is.get(*key)) {
                say(&mut found, "COMBINED_TYPE_CHANGED", "/if");
            }
        }
        _ => say(&mut found, "TYPE_CHANGED", ""),
    }
    Ok(found)
}

fn text(was: &Object, is: &Object, found: &mut Differences) {
    at_most(was, is, "maxLength", ["MAX_LENGTH_ADDED", "MAX_LENGTH_DECREASED"], found);
    at_least(was, is, "minLength", ["MIN_LENGTH_ADDED", "MIN_LENGTH_INCREASED"], found);
    match (was.get("pattern"), is.get("pattern")) {
        (None, Some(_)) => say(found, "PATTERN_ADDED", "/pattern"),
        (Some(was), Some(is)) if was != is => say(found, "PATTERN_CHANGED", "/pattern"),
        _ => {}
    }
}

fn number(was: &Object, is: &Object, found: &mut Differences) {
    at_most(was, is, "maximum", ["MAXIMUM_ADDED", "MAXIMUM_DECREASED"], found);
    at_least(was, is, "minimum", ["MINIMUM_ADDED", "MINIMUM_INCREASED"], found);
    at_most(was, is, "exclusiveMaximum", ["EXCLUSIVE_MAXIMUM_ADDED", "EXCLUSIVE_MAXIMUM_DECREASED"], found);
    at_least(was, is, "exclusiveMinimum", ["EXCLUSIVE_MINIMUM_ADDED", "EXCLUSIVE_MINIMUM_INCREASED"], found);
    match (numeric(was, "multipleOf"), numeric(is, "multipleOf")) {
        (None, Some(_)) => say(found, "MULTIPLE_OF_ADDED", "/multipleOf"),
        (Some(was), Some(is)) if was != is && !is_multiple(was, is) => {
            say(found, if is_multiple(is, was) { "MULTIPLE_OF_EXPANDED" } else { "MULTIPLE_OF_CHANGED" }, "/multipleOf");
        }
        _ => {}
    }
}

/// Whether `whole` is `part` so many times, to the precision in which people write such numbers.
fn is_multiple(whole: f64, part: f64) -> bool {
    let times = whole / part;
    times.is_finite() && (times - times.round()).abs() < 1e-9 && times.round() != 0.0
}

fn combined(
    known: &mut Known,
    (was, old): (Criterion, Vec<Part<'_>>),
    (is, new): (Criterion, Vec<Part<'_>>),
    found: &mut Differences,
) -> Result<(), Reason> {
    let lone = |parts: &[Part<'_>]| parts.len() == 1;
    let extended =
        was == is || is == Criterion::Any || (lone(&old) && (lone(&new) || is == Criterion::One)) || (lone(&new) && was == Criterion::All);
    if !extended {
        say(found, "COMBINED_TYPE_CHANGED", "");
        return Ok(());
    }
    let (old, new) = (distinct(old), distinct(new));
    match old.len().cmp(&new.len()) {
        Ordering::Less if is == Criterion::All => say(found, "PRODUCT_TYPE_EXTENDED", ""),
        Ordering::Greater if was != Criterion::All => say(found, "SUM_TYPE_NARROWED", ""),
        _ => {}
    }
    let mut fits: Vec<Vec<usize>> = Vec::with_capacity(old.len());
    for one in &old {
        let mut those = Vec::new();
        for (index, other) in new.iter().enumerate() {
            if pair(known, *one, *other)?.is_empty() {
                those.push(index);
            }
        }
        fits.push(those);
    }
    if matched(&fits, new.len()) < old.len().min(new.len()) {
        say(found, "COMBINED_TYPE_SUBSCHEMAS_CHANGED", "");
    }
    Ok(())
}

fn distinct(parts: Vec<Part<'_>>) -> Vec<Part<'_>> {
    let mut kept: Vec<Part<'_>> = Vec::with_capacity(parts.len());
    for part in parts {
        if !kept.iter().any(|one| one.facet == part.facet && one.value == part.value) {
            kept.push(part);
        }
    }
    kept
}

/// How many on the left find one of their own on the right (augmenting paths).
fn matched(fits: &[Vec<usize>], right: usize) -> usize {
    fn find(one: usize, fits: &[Vec<usize>], taken: &mut [Option<usize>], seen: &mut [bool]) -> bool {
        for &other in &fits[one] {
            if !std::mem::replace(&mut seen[other], true) && taken[other].is_none_or(|before| find(before, fits, taken, seen)) {
                taken[other] = Some(one);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; right];
    (0..fits.len()).filter(|one| find(*one, fits, &mut taken, &mut vec![false; right])).count()
}

/// What a schema allows beyond what it names.
enum Content<'a> {
    Open,
    /// What fits this schema.
    Partly(&'a Value),
    Closed,
}

/// The first of these keywords' schemas that restricts anything says what is allowed.
fn content<'a>(schemas: [Option<&'a Value>; 2]) -> Content<'a> {
    for schema in schemas.into_iter().flatten() {
        match schema {
            Value::Bool(false) => return Content::Closed,
            schema if !is_empty(schema) => return Content::Partly(schema),
            _ => {}
        }
    }
    Content::Open
}

/// What an object's schema allows under a name it does not know.
fn content_for<'a>(map: &'a Object, property: &str) -> Content<'a> {
    let others = content([map.get("additionalProperties"), map.get("unevaluatedProperties")]);
    let Some(patterns) = map.get("patternProperties").and_then(Value::as_object) else { return others };
    let fits = |pattern: &&String| fancy_regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(property).unwrap_or(false));
    match (patterns.keys().find(fits), others) {
        (Some(pattern), _) => Content::Partly(&patterns[pattern]),
        (None, Content::Open) if !patterns.is_empty() => Content::Closed,
        (None, others) => others,
    }
}

fn is_empty(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

fn has_default(schema: &Value) -> bool {
    schema.get("default").is_some()
}

fn is_required(map: &Object, property: &str) -> bool {
    map.get("required").and_then(Value::as_array).is_some_and(|list| list.iter().any(|one| one == property))
}

fn object<'a>(known: &mut Known, (old, was): Side<'a>, (new, is): Side<'a>, found: &mut Differences) -> Result<(), Reason> {
    let names = |map: &'a Object| map.get("properties").and_then(Value::as_object);
    let (had, has) = (names(was), names(is));
    for (name, schema) in has.into_iter().flatten() {
        let knew = had.is_some_and(|had| had.contains_key(name));
        if knew && is_required(is, name) && !is_required(was, name) && !has_default(schema) {
            say(found, "REQUIRED_ATTRIBUTE_ADDED", &format!("/required/{name}"));
        }
    }
    for (name, schema) in had.into_iter().flatten() {
        let path = format!("/properties/{name}");
        match has.and_then(|has| has.get(name)) {
            Some(now) => {
                compare(known, old.inner(schema), new.inner(now), &path, found)?;
            }
            None => {
                let names = ["PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"];
                gone(known, old.inner(schema), new, content_for(is, name), names, &path, found)?;
            }
        }
    }
    for (name, schema) in has.into_iter().flatten().filter(|(name, _)| !had.is_some_and(|had| had.contains_key(*name))) {
        let path = format!("/properties/{name}");
        let (required, default) = (is_required(is, name), has_default(schema));
        match content_for(was, name) {
            Content::Open if is_empty(schema) => continue,
            Content::Open => {
                let kind = match (required, default) {
                    (true, true) => "REQUIRED_PROPERTY_WITH_DEFAULT_ADDED_TO_OPEN_CONTENT_MODEL",
                    (true, false) => "REQUIRED_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL",
                    (false, _) => "OPTIONAL_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL",
                };
                say(found, kind, &path);
                continue;
            }
            Content::Partly(before) => {
                if compare(known, old.inner(before), new.inner(schema), &path, found)? {
                    say(found, "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", &path);
                }
            }
            Content::Closed => {}
        }
        if required && !default {
            say(found, "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", &path);
        }
    }
    dependencies(known, (old, was), (new, is), found)?;
    beyond(
        known,
        (old, was),
        (new, is),
        "additionalProperties",
        ["ADDITIONAL_PROPERTIES_REMOVED", "ADDITIONAL_PROPERTIES_NARROWED"],
        found,
    )?;
    let names = ["UNEVALUATED_PROPERTIES_REMOVED", "UNEVALUATED_PROPERTIES_NARROWED"];
    beyond(known, (old, was), (new, is), "unevaluatedProperties", names, found)?;
    at_most(was, is, "maxProperties", ["MAX_PROPERTIES_ADDED", "MAX_PROPERTIES_DECREASED"], found);
    at_least(was, is, "minProperties", ["MIN_PROPERTIES_ADDED", "MIN_PROPERTIES_INCREASED"], found);
    Ok(())
}

/// A property or item that the reader no longer names: what it allows beyond its names must cover it. Names: not covered, closed.
fn gone<'a>(
    known: &mut Known,
    old: Part<'a>,
    new: Part<'a>,
    content: Content<'a>,
    [not_covered, closed]: [&'static str; 2],
    path: &str,
    found: &mut Differences,
) -> Result<(), Reason> {
    match content {
        Content::Open => {}
        Content::Partly(schema) => {
            if compare(known, old, new.inner(schema), path, found)? {
                say(found, not_covered, path);
            }
        }
        // What could never be there is not missed.
        Content::Closed if *old.value == Value::Bool(false) => {}
        Content::Closed => say(found, closed, path),
    }
    Ok(())
}

/// `dependencies`, and the two keywords into which newer drafts split it.
fn dependencies<'a>(known: &mut Known, (old, was): Side<'a>, (new, is): Side<'a>, found: &mut Differences) -> Result<(), Reason> {
    for keyword in ["dependencies", "dependentRequired", "dependentSchemas"] {
        for (name, demand) in is.get(keyword).and_then(Value::as_object).into_iter().flatten() {
            let path = format!("/dependencies/{name}");
            match (was.get(keyword).and_then(|map| map.get(name)), demand) {
                (None, Value::Array(_)) => say(found, "DEPENDENCY_ARRAY_ADDED", &path),
                (None, _) => say(found, "DEPENDENCY_SCHEMA_ADDED", &path),
                (Some(Value::Array(before)), Value::Array(list)) => {
                    let extended = before.iter().all(|one| list.contains(one));
                    if !list.iter().all(|one| before.contains(one)) {
                        say(found, if extended { "DEPENDENCY_ARRAY_EXTENDED" } else { "DEPENDENCY_ARRAY_CHANGED" }, &path);
                    }
                }
                (Some(before), _) => {
                    compare(known, old.inner(before), new.inner(demand), &path, found)?;
                }
            }
        }
    }
    Ok(())
}

/// What is allowed beyond what is named may grow, not shrink. Names: removed, narrowed.
fn beyond<'a>(
    known: &mut Known,
    (old, was): Side<'a>,
    (new, is): Side<'a>,
    keyword: &str,
    [removed, narrowed]: [&'static str; 2],
    found: &mut Differences,
) -> Result<(), Reason> {
    // `true` and `{}` say what is so without them.
    let said = |map: &'a Object| map.get(keyword).filter(|schema| !is_empty(schema));
    let path = format!("/{keyword}");
    match (said(was), said(is)) {
        (_, None) | (Some(Value::Bool(false)), _) => {}
        (_, Some(Value::Bool(false))) => say(found, removed, &path),
        (None, Some(_)) => say(found, narrowed, &path),
        (Some(was), Some(is)) => {
            compare(known, old.inner(was), new.inner(is), &path, found)?;
        }
    }
    Ok(())
}

fn array<'a>(known: &mut Known, (old, was): Side<'a>, (new, is): Side<'a>, found: &mut Differences) -> Result<(), Reason> {
    at_most(was, is, "maxItems", ["MAX_ITEMS_ADDED", "MAX_ITEMS_DECREASED"], found);
    at_least(was, is, "minItems", ["MIN_ITEMS_ADDED", "MIN_ITEMS_INCREASED"], found);
    at_most(was, is, "maxContains", ["MAX_CONTAINS_ADDED", "MAX_CONTAINS_DECREASED"], found);
    at_least(was, is, "minContains", ["MIN_CONTAINS_ADDED", "MIN_CONTAINS_INCREASED"], found);
    let unique = |map: &Object| map.get("uniqueItems") == Some(&Value::Bool(true));
    if unique(is) && !unique(was) {
        say(found, "UNIQUE_ITEMS_ADDED", "/uniqueItems");
    }
    let (had, has) = (Items::of(was), Items::of(is));
    match (had.all, has.all) {
        (None, Some(_)) => say(found, "SCHEMA_ADDED", "/items"),
        (Some(was), Some(is)) => {
            compare(known, old.inner(was), new.inner(is), "/items", found)?;
        }
        _ => {}
    }
    for index in 0..had.each.len().max(has.each.len()) {
        let path = format!("/items/{index}");
        match (had.each.get(index), has.each.get(index)) {
            (Some(was), Some(is)) => {
                compare(known, old.inner(was), new.inner(is), &path, found)?;
            }
            (Some(was), None) => {
                let names = ["ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL"];
                gone(known, old.inner(was), new, has.content(), names, &path, found)?;
            }
            (None, Some(is)) => match had.content() {
                Content::Open if !is_empty(is) => say(found, "ITEM_ADDED_TO_OPEN_CONTENT_MODEL", &path),
                Content::Partly(schema) => {
                    let differs = compare(known, old.inner(schema), new.inner(is), &path, found)?;
                    if differs {
                        say(found, "ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", &path);
                    }
                }
                _ => {}
            },
            (None, None) => {}
        }
    }
    if !had.each.is_empty() || !has.each.is_empty() {
        // In newer drafts `items` beside `prefixItems` is what `additionalItems` was.
        let keyword = if had.is_prefix || has.is_prefix { "items" } else { "additionalItems" };
        beyond(known, (old, was), (new, is), keyword, ["ADDITIONAL_ITEMS_REMOVED", "ADDITIONAL_ITEMS_NARROWED"], found)?;
    }
    beyond(known, (old, was), (new, is), "unevaluatedItems", ["UNEVALUATED_ITEMS_REMOVED", "UNEVALUATED_ITEMS_NARROWED"], found)
}

/// What an array's schema says of its items.
struct Items<'a> {
    /// Of the first, the second, ...
    each: Vec<&'a Value>,
    is_prefix: bool,
    /// Of all, where there is none for each; `true` and `{}` say nothing.
    all: Option<&'a Value>,
    additional: Option<&'a Value>,
    unevaluated: Option<&'a Value>,
}

impl<'a> Items<'a> {
    fn of(map: &'a Object) -> Self {
        let list = |key| map.get(key).and_then(Value::as_array).map(|list| list.iter().collect::<Vec<_>>());
        let (items, unevaluated) = (map.get("items"), map.get("unevaluatedItems"));
        if let Some(each) = list("prefixItems") {
            return Self { each, is_prefix: true, all: None, additional: items, unevaluated };
        }
        match list("items") {
            Some(each) => Self { each, is_prefix: false, all: None, additional: map.get("additionalItems"), unevaluated },
            None => Self { each: Vec::new(), is_prefix: false, all: items.filter(|all| !is_empty(all)), additional: None, unevaluated },
        }
    }

    fn content(&self) -> Content<'a> {
        content([self.additional, self.unevaluated])
    }
}

fn numeric(map: &Object, keyword: &str) -> Option<f64> {
    map.get(keyword).and_then(Value::as_f64)
}

/// An upper bound may go or rise. Names: added, decreased.
fn at_most(was: &Object, is: &Object, keyword: &str, [added, decreased]: [&'static str; 2], found: &mut Differences) {
    match (numeric(was, keyword), numeric(is, keyword)) {
        (None, Some(_)) => say(found, added, &format!("/{keyword}")),
        (Some(was), Some(is)) if is < was => say(found, decreased, &format!("/{keyword}")),
        _ => {}
    }
}

/// A lower bound may go or sink. Names: added, increased.
fn at_least(was: &Object, is: &Object, keyword: &str, [added, increased]: [&'static str; 2], found: &mut Differences) {
    match (numeric(was, keyword), numeric(is, keyword)) {
        (None, Some(_)) => say(found, added, &format!("/{keyword}")),
        (Some(was), Some(is)) if is > was => say(found, increased, &format!("/{keyword}")),
        _ => {}
    }
}

fn say(found: &mut Differences, kind: &'static str, path: &str) {
    found.push(Difference { kind, path: path.to_owned(), words: words(kind).to_owned(), detail: None });
}

fn words(kind: &str) -> &'static str {
    match kind {
        _ if kind.contains("ADDED_TO_OPEN_CONTENT_MODEL") => {
            "The %r schema has an open content model and has a property or item at path '%p' which is missing in the %w schema"
        }
        "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL" => {
            "The %r schema has an unopen content model and has a required property at path '%p' which is missing in the %w schema"
        }
        _ if kind.contains("REMOVED_FROM_CLOSED_CONTENT_MODEL") => {
            "The %r has a closed content model and is missing a property or item present at path '%p' in the %w schema"
        }
        _ if kind.contains("REMOVED_NOT_COVERED") => {
            "A property or item is missing in the %r schema but present at path '%p' in the %w schema and is not covered by its partially \
             open content model"
        }
        _ if kind.contains("ADDED_NOT_COVERED") => {
            "The %r schema has a property or item at path '%p' which is missing in the %w schema and is not covered by its partially open \
             content model"
        }
        "TYPE_CHANGED" | "TYPE_NARROWED" | "COMBINED_TYPE_CHANGED" | "COMBINED_TYPE_SUBSCHEMAS_CHANGED" | "ENUM_ARRAY_CHANGED" => {
            "A type at path '%p' is different between the %r schema and the %w schema"
        }
        "PATTERN_CHANGED" | "MULTIPLE_OF_CHANGED" | "DEPENDENCY_ARRAY_CHANGED" => {
            "The value at path '%p' is different between the %r and %w schema"
        }
        _ if kind.ends_with("_INCREASED") || kind == "MULTIPLE_OF_EXPANDED" => {
            "The value at path '%p' in the %r schema is more than its value in the %w schema"
        }
        _ if kind.ends_with("_DECREASED") => "The value at path '%p' in the %r schema is less than its value in the %w schema",
        _ if kind.ends_with("_NARROWED") => "An array or combined type at path '%p' has fewer elements in the %r schema than the %w schema",
        _ if kind.ends_with("_EXTENDED") => "An array or combined type at path '%p' has more elements in the %r schema than the %w schema",
        _ => "The keyword at path '%p' in the %r schema is not present in the %w schema",
    }
}
