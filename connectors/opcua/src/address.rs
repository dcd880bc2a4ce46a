//! How a node is named in the YAML: by its id or by its browse path, with namespaces by index, URI or declared prefix.
//!
//! ```text
//! ns=2;s=Temp            an index: changes when the server's namespace table does
//! nsu=http://acme/p;s=T  a URI
//! p:s=Temp               a prefix that `namespaces:` declares
//! i=2258                 namespace 0
//! Objects/Press/p:Temp   a browse path; `2:Temp`, `p:Temp`, or `Temp` of any namespace; `&` before a `/` or `:` that belongs to a name
//! ```
//!
//! Parsing needs no server; [`Space::resolve`] makes a node id of it for one server's namespace table.

use millrace_config::Reason;
use opcua::types::{ByteString, Guid, Identifier, NodeId, UAString};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Prefixes of the YAML, each with its URI.
pub type Prefixes = BTreeMap<String, Arc<str>>;

/// A namespace as the YAML names it.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Namespace {
    Index(u16),
    Uri(Arc<str>),
}

/// Where a node is.
#[derive(Clone, PartialEq, Debug)]
pub enum Address {
    Id(Namespace, Identifier),
    Path(BrowsePath),
}

/// A way through the address space along hierarchical references.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct BrowsePath {
    pub start: Start,
    pub steps: Vec<Step>,
}

/// A standard folder that a browse path begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Start {
    Root,
    Objects,
    Types,
    Views,
    Server,
}

/// One browse name; `None` matches it in any namespace.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Step {
    pub namespace: Option<Namespace>,
    pub name: String,
}

impl Start {
    const ALL: [(&'static str, Self, u32); 5] = [
        ("Root", Self::Root, 84),
        ("Objects", Self::Objects, 85),
        ("Types", Self::Types, 86),
        ("Views", Self::Views, 87),
        ("Server", Self::Server, 2253),
    ];

    pub fn node_id(self) -> NodeId {
        let (.., id) = Self::ALL.into_iter().find(|(_, start, _)| *start == self).unwrap_or(Self::ALL[0]);
        NodeId::new(0, id)
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, ..)| *known == name).map(|(_, start, _)| start)
    }
}

impl Address {
    /// Errors: what is wrong with the text, and what to write instead.
    pub fn parse(text: &str, prefixes: &Prefixes) -> Result<Self, Reason> {
        let text = text.trim();
        if text.is_empty() {
            return Err("a node needs an address: `ns=2;s=Temp`, `p:s=Temp` or `Objects/Press/Temp`".into());
        }
        let first = text.strip_prefix('/').unwrap_or(text);
        if let Some(start) = first.split('/').next().and_then(Start::of) {
            return Ok(Self::Path(BrowsePath { start, steps: steps(first.split_once('/').map_or("", |(_, rest)| rest), prefixes)? }));
        }
        let (namespace, rest) = namespace(text, prefixes)?;
        match identifier(rest) {
            Some(identifier) => Ok(Self::Id(namespace, identifier?)),
            None => Err(format!(
                "`{text}` is no node: an id looks like `ns=2;s=Temp`, `nsu=URI;i=42` or `p:s=Temp`, a browse path begins with `Objects/`"
            )
            .into()),
        }
    }
}

/// The namespace in front of an identifier, and the identifier's text.
fn namespace<'t>(text: &'t str, prefixes: &Prefixes) -> Result<(Namespace, &'t str), Reason> {
    if let Some(rest) = text.strip_prefix("nsu=") {
        let end = [";i=", ";s=", ";g=", ";b="].iter().filter_map(|mark| rest.find(mark)).min();
        let end = end.ok_or_else(|| format!("`{text}` has a namespace URI and no identifier: add `;s=NAME` or `;i=NUMBER`"))?;
        return Ok((Namespace::Uri(rest[..end].into()), &rest[end + 1..]));
    }
    if let Some(rest) = text.strip_prefix("ns=") {
        let (index, rest) =
            rest.split_once(';').ok_or_else(|| format!("`{text}` has a namespace and no identifier: add `;s=NAME` or `;i=NUMBER`"))?;
        let index = index.parse().map_err(|_| format!("`{index}` is no namespace index: it is a number from 0 to 65535"))?;
        return Ok((Namespace::Index(index), rest));
    }
    match text.split_once(':') {
        // `s=a:b` has a colon of its own.
        Some((prefix, rest)) if !prefix.contains('=') => Ok((known(prefix, prefixes)?, rest)),
        _ => Ok((Namespace::Index(0), text)),
    }
}

fn known(prefix: &str, prefixes: &Prefixes) -> Result<Namespace, Reason> {
    if let Some(uri) = prefixes.get(prefix) {
        return Ok(Namespace::Uri(uri.clone()));
    }
    let declared: Vec<&str> = prefixes.keys().map(String::as_str).collect();
    Err(match declared.is_empty() {
        true => format!("the prefix `{prefix}` is not declared: add `namespaces: {{{prefix}: URI}}`").into(),
        false => format!("the prefix `{prefix}` is not declared; `namespaces` has {}", declared.join(", ")).into(),
    })
}

/// `None`: it does not begin like one.
fn identifier(text: &str) -> Option<Result<Identifier, Reason>> {
    let (kind, value) = text.split_once('=')?;
    Some(match kind {
        "i" => value
            .parse()
            .map(Identifier::Numeric)
            .map_err(|_| format!("`{value}` is no numeric identifier: it is from 0 to 4294967295").into()),
        "s" if value.is_empty() => Err("the identifier after `s=` is empty".into()),
        "s" => Ok(Identifier::String(UAString::from(value))),
        "g" => Guid::from_str(value).map(Identifier::Guid).map_err(|_| format!("`{value}` is no GUID").into()),
        "b" => match ByteString::from_base64(value) {
            Some(bytes) => Ok(Identifier::ByteString(bytes)),
            None => Err(format!("`{value}` is not base64").into()),
        },
        _ => return None,
    })
}

/// Splits a browse path, or the path of an event's field; `&` takes the meaning from the character behind it.
pub fn steps(text: &str, prefixes: &Prefixes) -> Result<Vec<Step>, Reason> {
    let mut found = Vec::new();
    let (mut prefix, mut name) = (None, String::new());
    let mut chars = text.chars();
    let mut finish = |prefix: Option<String>, name: String| -> Result<(), Reason> {
        if name.is_empty() {
            return Err(format!("the browse path `{text}` has an empty level").into());
        }
        let namespace = match prefix {
            None => None,
            Some(prefix) => Some(match prefix.parse() {
                Ok(index) => Namespace::Index(index),
                Err(_) => known(&prefix, prefixes)?,
            }),
        };
        found.push(Step { namespace, name });
        Ok(())
    };
    if text.is_empty() {
        return Ok(found);
    }
    while let Some(c) = chars.next() {
        match c {
            '&' => name.extend(chars.next()),
            '/' => finish(prefix.take(), std::mem::take(&mut name))?,
            ':' if prefix.is_none() => prefix = Some(std::mem::take(&mut name)),
            _ => name.push(c),
        }
    }
    finish(prefix, name)?;
    Ok(found)
}

/// The namespace table of one server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Space {
    uris: Vec<Arc<str>>,
}

impl Space {
    pub fn new<'u>(uris: impl IntoIterator<Item = &'u str>) -> Self {
        Self { uris: uris.into_iter().map(Arc::from).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.uris.is_empty()
    }

    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.uris.iter().map(|uri| &**uri)
    }

    pub fn uri(&self, index: u16) -> Option<&str> {
        self.uris.get(index as usize).map(|uri| &**uri)
    }

    pub fn index(&self, namespace: &Namespace) -> Option<u16> {
        match namespace {
            Namespace::Index(index) => Some(*index),
            Namespace::Uri(uri) => self.uris.iter().position(|known| known == uri).and_then(|index| index.try_into().ok()),
        }
    }

    /// The id on this server; `None` where it has no such namespace.
    pub fn node_id(&self, namespace: &Namespace, identifier: &Identifier) -> Option<NodeId> {
        Some(NodeId { namespace: self.index(namespace)?, identifier: identifier.clone() })
    }

    /// A node id as it is written in the YAML, its namespace by URI so that it survives a changed table.
    pub fn write(&self, id: &NodeId) -> String {
        match self.uri(id.namespace).filter(|_| id.namespace != 0) {
            Some(uri) => format!("nsu={uri};{}", id.identifier),
            None => id.to_string(),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "index {index}"),
            Self::Uri(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes() -> Prefixes {
        [("p".to_owned(), Arc::from("http://acme.example/press"))].into()
    }

    fn parse(text: &str) -> Result<Address, Reason> {
        Address::parse(text, &prefixes())
    }

    #[test]
    fn ids_are_named_by_index_uri_or_prefix() {
        let uri = |uri: &str| Namespace::Uri(uri.into());
        let text = |text: &str| Identifier::String(text.into());
        assert_eq!(parse("ns=2;s=Temp"), Ok(Address::Id(Namespace::Index(2), text("Temp"))));
        assert_eq!(parse("i=2258"), Ok(Address::Id(Namespace::Index(0), Identifier::Numeric(2258))));
        assert_eq!(parse("p:s=Temp"), Ok(Address::Id(uri("http://acme.example/press"), text("Temp"))));
        assert_eq!(parse("nsu=http://x/;a;s=b;i=3"), Ok(Address::Id(uri("http://x/;a"), text("b;i=3"))));
        assert_eq!(parse("s=a:b/c=d"), Ok(Address::Id(Namespace::Index(0), text("a:b/c=d"))));
        assert_eq!(parse("ns=3;s=\"DB\".\"x\""), Ok(Address::Id(Namespace::Index(3), text("\"DB\".\"x\""))));
        assert!(matches!(parse("ns=1;g=72962B91-FA75-4AE6-8D28-B404DC7DAF63"), Ok(Address::Id(_, Identifier::Guid(_)))));
        assert!(matches!(parse("ns=1;b=M/RbKBsRVkePCePcx24oRA=="), Ok(Address::Id(_, Identifier::ByteString(_)))));
    }

    #[test]
    fn a_browse_path_names_a_namespace_or_leaves_it_open() {
        let Ok(Address::Path(path)) = parse("Objects/2:Press/p:Temp/a&/b&:c") else { panic!("is a path") };
        assert_eq!(path.start, Start::Objects);
        let names: Vec<_> = path.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["Press", "Temp", "a/b:c"]);
        assert_eq!(path.steps[0].namespace, Some(Namespace::Index(2)));
        assert_eq!(path.steps[1].namespace, Some(Namespace::Uri("http://acme.example/press".into())));
        assert_eq!(path.steps[2].namespace, None);
        assert_eq!(parse("/Root/Objects").map(|a| matches!(a, Address::Path(_))), Ok(true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert_eq!(wrong("q:s=Temp"), "the prefix `q` is not declared; `namespaces` has p");
        assert!(wrong("Temperature").starts_with("`Temperature` is no node"));
        assert!(wrong("ns=70000;i=1").contains("0 to 65535"));
        assert!(wrong("ns=1").contains("no identifier"));
        assert!(wrong("i=-1").contains("4294967295"));
        assert!(wrong("g=xyz").contains("GUID"));
        assert!(wrong("Objects//Temp").contains("empty level"));
    }

    #[test]
    fn a_namespace_is_found_in_the_servers_table_wherever_it_stands() {
        let Ok(Address::Id(namespace, identifier)) = parse("p:s=Temp") else { panic!("is an id") };
        let before = Space::new(["http://opcfoundation.org/UA/", "urn:server", "http://acme.example/press"]);
        let after = Space::new(["http://opcfoundation.org/UA/", "urn:server", "urn:new", "http://acme.example/press"]);
        assert_eq!(before.node_id(&namespace, &identifier), Some(NodeId::new(2, "Temp")));
        assert_eq!(after.node_id(&namespace, &identifier), Some(NodeId::new(3, "Temp")));
        assert_eq!(Space::default().node_id(&namespace, &identifier), None);
        assert_eq!(after.write(&NodeId::new(3, "Temp")), "nsu=http://acme.example/press;s=Temp");
        assert_eq!(after.write(&NodeId::new(0, 2258u32)), "i=2258");
    }
}
