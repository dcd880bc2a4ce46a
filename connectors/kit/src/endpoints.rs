//! One endpoint of a device, or a list of them: the ways of a redundant set, in the order of preference.

use millrace_config::{Kind, Node, Spanned};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::borrow::Cow;

/// Each endpoint with its place; what one looks like is its protocol's to check.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoints(pub Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let nodes = match &node.kind {
            Kind::Seq(items) => items.as_slice(),
            _ => std::slice::from_ref(&node),
        };
        let text = |node: &Node| match &node.kind {
            Kind::String(text) => Ok(Spanned { value: text.as_str().to_owned(), place: node.place }),
            _ => Err(D::Error::custom(format!("an endpoint is a text such as `host:port`, not {}", node.describe()))),
        };
        nodes.iter().map(text).collect::<Result<_, _>>().map(Self)
    }
}

impl JsonSchema for Endpoints {
    fn schema_name() -> Cow<'static, str> {
        "Endpoints".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Problems;

    fn endpoints(yaml: &str) -> (Option<Vec<String>>, String) {
        let mut problems = Problems::new();
        let node = Node::from_yaml(yaml, &mut problems);
        let parsed: Option<Endpoints> = node.and_then(|node| node.parse(&mut problems));
        (parsed.map(|endpoints| endpoints.0.into_iter().map(|one| one.value).collect()), problems.render())
    }

    #[test]
    fn one_endpoint_or_a_list_of_them_and_nothing_else() {
        assert_eq!(endpoints("a:1").0, Some(vec!["a:1".to_owned()]));
        assert_eq!(endpoints("[a:1, b:2]").0, Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
        let (_, said) = endpoints("[a:1, 7]");
        assert!(said.contains("an endpoint is a text such as `host:port`, not"), "{said}");
    }
}
