//! Which events are wanted: `severity >= 500 and type = ns=2;i=1001`, as the server's own filter.

use crate::address::{Address, Prefixes, Space, Step, steps};
use millrace_config::Reason;
use opcua::types::{
    AttributeId, ContentFilter, ContentFilterElement, EventFilter, ExtensionObject, FilterOperator, LiteralOperand, NodeId, ObjectTypeId,
    QualifiedName, SimpleAttributeOperand, UAString, Variant,
};
use std::sync::Arc;

/// A field of an event's document.
#[derive(Clone, Debug)]
pub struct EventField {
    pub name: Arc<str>,
    pub path: Vec<Step>,
}

/// Comparisons that all have to hold. None: every event.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Condition {
    comparisons: Vec<Comparison>,
}

#[derive(Clone, PartialEq, Debug)]
enum Comparison {
    Field(Vec<Step>, Operator, Literal),
    /// Of this type, or a subtype.
    Type(Address),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Operator {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
}

#[derive(Clone, PartialEq, Debug)]
enum Literal {
    Number(f64),
    Text(String),
    Bool(bool),
}

impl Condition {
    /// Errors: what is wrong with the text, and what to write.
    pub fn parse(text: &str, prefixes: &Prefixes) -> Result<Self, Reason> {
        let mut comparisons = Vec::new();
        for part in text.split(" and ") {
            comparisons.push(comparison(part.trim(), prefixes).map_err(|what| format!("`{part}`: {what}"))?);
        }
        Ok(Self { comparisons })
    }

    /// The server's form of it. Errors: a name that this server does not know.
    pub fn filter(&self, fields: &[EventField], space: &Space) -> Result<EventFilter, Reason> {
        let mut select = Vec::with_capacity(fields.len());
        for field in fields {
            select.push(operand(&field.path, space)?);
        }
        let comparisons = self.comparisons.iter().map(|comparison| comparison.element(space)).collect::<Result<_, _>>()?;
        let elements = combined(FilterOperator::And, comparisons);
        Ok(EventFilter { select_clauses: Some(select), where_clause: ContentFilter { elements } })
    }
}

/// Events of one of these types, of which nothing but their type is asked for. Servers that know no subtypes take each for itself.
pub fn of_types(kinds: &[ObjectTypeId]) -> EventFilter {
    let select = SimpleAttributeOperand {
        type_definition_id: ObjectTypeId::BaseEventType.into(),
        browse_path: Some(vec![QualifiedName::new(0, "EventType")]),
        attribute_id: AttributeId::Value as u32,
        ..Default::default()
    };
    let types = kinds.iter().map(|kind| ContentFilterElement {
        filter_operator: FilterOperator::OfType,
        filter_operands: Some(vec![ExtensionObject::from_message(LiteralOperand { value: Variant::from(NodeId::from(*kind)) })]),
    });
    let elements = combined(FilterOperator::Or, types.collect());
    EventFilter { select_clauses: Some(vec![select]), where_clause: ContentFilter { elements } }
}

/// A tree of operators: each but the last is the operator of an element and of the rest. `None` without elements.
fn combined(operator: FilterOperator, parts: Vec<ContentFilterElement>) -> Option<Vec<ContentFilterElement>> {
    let operators = parts.len().saturating_sub(1);
    let element = |index: usize| ExtensionObject::from_message(opcua::types::ElementOperand { index: index as u32 });
    let node = |index: usize| ContentFilterElement {
        filter_operator: operator,
        filter_operands: Some(vec![element(operators + index), element(if index + 1 < operators { index + 1 } else { 2 * operators })]),
    };
    let elements: Vec<_> = (0..operators).map(node).chain(parts).collect();
    (!elements.is_empty()).then_some(elements)
}

fn comparison(text: &str, prefixes: &Prefixes) -> Result<Comparison, Reason> {
    let operators = [
        (">=", Operator::GreaterOrEqual),
        ("<=", Operator::LessOrEqual),
        (" like ", Operator::Like),
        ("=", Operator::Equal),
        (">", Operator::Greater),
        ("<", Operator::Less),
    ];
    let found = operators
        .iter()
        .filter_map(|(sign, operator)| text.find(sign).map(|at| (at, std::cmp::Reverse(sign.len()), *sign, *operator)))
        .min_by_key(|(at, len, ..)| (*at, *len));
    let Some((at, _, sign, operator)) = found else {
        return Err("is no comparison: write `severity >= 500`, several joined by `and`".into());
    };
    let (field, value) = (text[..at].trim(), text[at + sign.len()..].trim());
    if field.ends_with('!') || sign == "=" && field.is_empty() {
        return Err("known are =, <, <=, >, >= and like".into());
    }
    if field.is_empty() {
        return Err("nothing stands before the operator".into());
    }
    if field.eq_ignore_ascii_case("type") {
        if operator != Operator::Equal {
            return Err("a type is compared with `=`: it takes the subtypes, too".into());
        }
        return Address::parse(value, prefixes).map(Comparison::Type);
    }
    let mut path = steps(field, prefixes)?;
    if let [Step { namespace: None, name }] = path.as_mut_slice() {
        // The standard's fields are written in capitals; nobody else has to.
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
    }
    let literal = match value {
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        "" => return Err("nothing stands behind the operator".into()),
        _ => match value.parse() {
            Ok(number) => Literal::Number(number),
            Err(_) => Literal::Text(value.trim_matches(['"', '\'']).to_owned()),
        },
    };
    Ok(Comparison::Field(path, operator, literal))
}

impl Comparison {
    fn element(&self, space: &Space) -> Result<ContentFilterElement, Reason> {
        let literal = |value: Variant| ExtensionObject::from_message(LiteralOperand { value });
        let (filter_operator, operands) = match self {
            Self::Type(Address::Id(namespace, identifier)) => {
                let id = space.node_id(namespace, identifier).ok_or_else(|| format!("the server has no namespace {namespace}"))?;
                (FilterOperator::OfType, vec![literal(Variant::from(id))])
            }
            Self::Type(Address::Path(_)) => return Err("a type is named by its node id".into()),
            Self::Field(path, operator, value) => {
                let operator = match operator {
                    Operator::Equal => FilterOperator::Equals,
                    Operator::Less => FilterOperator::LessThan,
                    Operator::LessOrEqual => FilterOperator::LessThanOrEqual,
                    Operator::Greater => FilterOperator::GreaterThan,
                    Operator::GreaterOrEqual => FilterOperator::GreaterThanOrEqual,
                    Operator::Like => FilterOperator::Like,
                };
                let is_severity = matches!(path.as_slice(), [step] if step.name == "Severity");
                let value = match value {
                    // Severity is a UInt16; servers that do not convert compare nothing else with it.
                    Literal::Number(number) if is_severity => Variant::UInt16(number.clamp(0.0, 65_535.0) as u16),
                    Literal::Number(number) if number.fract() == 0.0 && number.abs() < 2e9 => Variant::Int32(*number as i32),
                    Literal::Number(number) => Variant::Double(*number),
                    Literal::Text(text) => Variant::String(UAString::from(text.as_str())),
                    Literal::Bool(value) => Variant::Boolean(*value),
                };
                (operator, vec![ExtensionObject::from_message(operand(path, space)?), literal(value)])
            }
        };
        Ok(ContentFilterElement { filter_operator, filter_operands: Some(operands) })
    }
}

/// A field of an event.
fn operand(path: &[Step], space: &Space) -> Result<SimpleAttributeOperand, Reason> {
    let mut names = Vec::with_capacity(path.len());
    for step in path {
        let index = match &step.namespace {
            None => 0,
            Some(namespace) => space.index(namespace).ok_or_else(|| format!("the server has no namespace {namespace}"))?,
        };
        names.push(QualifiedName::new(index, step.name.as_str()));
    }
    let first = path.first().map_or("", |step| step.name.as_str());
    let is_id = path.len() == 1 && first == "ConditionId";
    Ok(SimpleAttributeOperand {
        type_definition_id: NodeId::from(if is_id { ObjectTypeId::ConditionType } else { ObjectTypeId::BaseEventType }),
        // The id of a condition is its node's, which has no browse path.
        browse_path: Some(if is_id { Vec::new() } else { names }),
        attribute_id: if is_id { AttributeId::NodeId } else { AttributeId::Value } as u32,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_alphabet_is_a_field() {
        assert!(Condition::parse("ärger >= 5", &Prefixes::default()).is_ok());
        assert!(Condition::parse(" >= 5", &Prefixes::default()).is_err());
    }

    #[test]
    fn comparisons_are_joined_by_and() {
        let prefixes = Prefixes::new();
        let condition = Condition::parse("severity >= 500 and SourceName = \"Press 1\" and type = ns=2;i=1001", &prefixes).unwrap();
        let space = Space::new(["http://opcfoundation.org/UA/", "urn:a", "urn:b"]);
        let filter = condition.filter(&[], &space).unwrap();
        let elements = filter.where_clause.elements.unwrap();
        let operators: Vec<_> = elements.iter().map(|element| element.filter_operator).collect();
        use FilterOperator::*;
        assert_eq!(operators, [And, And, GreaterThanOrEqual, Equals, OfType]);
        let index = |element: usize, operand: usize| {
            let operands = elements[element].filter_operands.as_ref().unwrap();
            operands[operand].inner_as::<opcua::types::ElementOperand>().unwrap().index
        };
        assert_eq!([index(0, 0), index(0, 1), index(1, 0), index(1, 1)], [2, 1, 3, 4]);
    }

    #[test]
    fn a_single_comparison_stands_alone_and_none_is_no_filter() {
        let prefixes = Prefixes::new();
        let one = Condition::parse("severity > 100", &prefixes).unwrap().filter(&[], &Space::default()).unwrap();
        assert_eq!(one.where_clause.elements.unwrap().len(), 1);
        assert!(Condition::default().filter(&[], &Space::default()).unwrap().where_clause.elements.is_none());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let prefixes = Prefixes::new();
        for (text, what) in [
            ("severity", "is no comparison"),
            ("severity >=", "nothing stands"),
            ("type > i=1", "with `=`"),
            ("type = x:i=1", "not declared"),
            ("severity != 3", "known are"),
        ] {
            let error = Condition::parse(text, &prefixes).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
