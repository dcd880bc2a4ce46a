//! `millrace browse opcua ENDPOINT`: what a server has, as a source to paste under `sources:`, or as a table for `tags_from`.
//!
//! Read only, one session. Bounded: so many variables, so many nodes, ten levels. `--below` begins elsewhere than at `Objects`, which is shown
//! without what the standard itself puts there (`Server`, `Aliases`), and variables without the settings of their history.

use crate::address::{Address, Start};
use crate::inspect::{apart, decoded, open, shown};
use crate::session::{Session, attribute_of, children_of, value_of};
use millrace_config::Reason;
use millrace_contract::found::{Entry, Shape};
use millrace_contract::plugin::Looking;
use millrace_contract::{Browse, Findings, FoundTag};
use opcua::types::{
    AttributeId, DataTypeId, DataValue, EUInformation, Identifier, NodeClass, NodeId, Range, ReferenceDescription, ReferenceTypeId, Variant,
};
use std::collections::{BTreeMap, HashMap, HashSet};

const DEPTH: usize = 10;
const MOST_NODES: usize = 200_000;
/// A bit of a variable's access level.
const CURRENT_WRITE: u8 = 2;

/// Looks at a server and describes what it has.
pub fn browse(request: Browse) -> Looking {
    apart(|| async move {
        let session = open(&request).await?;
        let found = look(&session, &request).await;
        session.close(true).await;
        Ok(findings(&found?, &request))
    })
}

/// A variable.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Levels below where it began.
    path: Vec<String>,
    node: NodeId,
    kind: String,
    value: String,
    unit: Option<String>,
    range: Option<(f64, f64)>,
    description: Option<String>,
    /// What the server lets this user do.
    writable: Option<bool>,
}

#[derive(Debug, Default)]
struct Seen {
    variables: Vec<Found>,
    /// By index.
    namespaces: Vec<String>,
    is_more: bool,
}

async fn look(session: &Session, request: &Browse) -> Result<Seen, Reason> {
    let refused = |refused: crate::session::Refused| refused.to_string();
    let start = start(session, request).await?;
    let mut seen = Seen { namespaces: session.space().uris().map(str::to_owned).collect(), ..Seen::default() };
    let mut known: HashSet<NodeId> = HashSet::from([start.clone()]);
    // Nodes to look below, with their paths; of a variable also its place among the found.
    let mut level: Vec<(NodeId, Vec<String>, Option<usize>)> = vec![(start, Vec::new(), None)];
    let mut properties: Vec<(usize, &'static str, NodeId)> = Vec::new();
    for _ in 0..DEPTH {
        let asked: Vec<_> = level.iter().map(|(node, ..)| children_of(node.clone())).collect();
        let answers = session.browse(&asked).await.map_err(refused)?;
        let mut next = Vec::new();
        for ((_, path, variable), children) in level.into_iter().zip(answers) {
            for child in children.unwrap_or_default() {
                let node = child.node_id.node_id.clone();
                if let (Some(variable), true) = (variable, child.reference_type_id == ReferenceTypeId::HasProperty) {
                    properties.extend(property_of(&child).map(|name| (variable, name, node)));
                    continue;
                }
                let is_of_the_standard = request.below.is_none() && path.is_empty() && node.namespace == 0;
                let is_of_the_history = child.reference_type_id == ReferenceTypeId::HasHistoricalConfiguration;
                if child.node_id.server_index != 0 || is_of_the_standard || is_of_the_history || !known.insert(node.clone()) {
                    continue;
                }
                if known.len() > MOST_NODES || seen.variables.len() >= request.limit {
                    seen.is_more = true;
                    continue;
                }
                let mut path = path.clone();
                path.push(child.browse_name.name.to_string());
                match child.node_class {
                    NodeClass::Object => next.push((node, path, None)),
                    NodeClass::Variable => {
                        next.push((node.clone(), path.clone(), Some(seen.variables.len())));
                        seen.variables.push(Found { path, node, ..Found::default() });
                    }
                    _ => {}
                }
            }
        }
        level = next;
        if level.is_empty() {
            break;
        }
    }
    describe(session, &mut seen.variables, &properties).await.map_err(refused)?;
    seen.variables.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(seen)
}

async fn start(session: &Session, request: &Browse) -> Result<NodeId, Reason> {
    let Some(text) = &request.below else { return Ok(Start::Objects.node_id()) };
    let space = session.space();
    match Address::parse(text, &Default::default())? {
        Address::Id(namespace, identifier) => {
            space.node_id(&namespace, &identifier).ok_or_else(|| format!("{} has no namespace {namespace}", request.url).into())
        }
        Address::Path(path) => {
            let mut at = path.start.node_id();
            for step in &path.steps {
                let children = session.browse(&[children_of(at.clone())]).await.map_err(|refused| refused.to_string())?;
                let children = children.into_iter().next().and_then(Result::ok).unwrap_or_default();
                let is_named = |child: &&ReferenceDescription| child.browse_name.name.as_ref() == step.name;
                let child = children
                    .iter()
                    .find(is_named)
                    .ok_or_else(|| format!("{} has no `{text}`: `{}` is not there", request.url, step.name))?;
                at = child.node_id.node_id.clone();
            }
            Ok(at)
        }
    }
}

fn property_of(child: &ReferenceDescription) -> Option<&'static str> {
    ["EngineeringUnits", "EURange"].into_iter().find(|name| child.browse_name.name.as_ref() == *name)
}

/// Reads values, types, descriptions, units and ranges.
async fn describe(
    session: &Session,
    variables: &mut [Found],
    properties: &[(usize, &'static str, NodeId)],
) -> Result<(), crate::session::Refused> {
    let mut wanted = Vec::with_capacity(variables.len() * 4 + properties.len());
    for attribute in [AttributeId::Value, AttributeId::DataType, AttributeId::Description, AttributeId::UserAccessLevel] {
        wanted.extend(variables.iter().map(|one| attribute_of(one.node.clone(), attribute)));
    }
    wanted.extend(properties.iter().map(|(.., node)| value_of(node.clone())));
    let answers = session.read(&wanted).await?;
    let (values, rest) = answers.split_at(variables.len());
    let (types, rest) = rest.split_at(variables.len());
    let (descriptions, rest) = rest.split_at(variables.len());
    let (levels, properties_read) = rest.split_at(variables.len());
    let type_id = |value: &DataValue| match &value.value {
        Some(Variant::NodeId(id)) => Some((**id).clone()),
        _ => None,
    };
    let own: HashSet<NodeId> = types.iter().filter_map(type_id).filter(|id| builtin(id).is_none()).collect();
    let own: Vec<NodeId> = own.into_iter().collect();
    let names = session.read(&own.iter().map(|id| attribute_of(id.clone(), AttributeId::DisplayName)).collect::<Vec<_>>()).await?;
    let names: HashMap<NodeId, String> = own.into_iter().zip(names.iter().map(shown)).collect();
    for (index, one) in variables.iter_mut().enumerate() {
        one.value = shown(&values[index]);
        one.kind = match type_id(&types[index]) {
            Some(id) => builtin(&id).or_else(|| names.get(&id).cloned()).unwrap_or_else(|| id.to_string()),
            None => "of no known type".into(),
        };
        one.writable = match &levels[index].value {
            Some(Variant::Byte(level)) => Some(level & CURRENT_WRITE != 0),
            _ => None,
        };
        one.description = match &descriptions[index].value {
            // Many servers describe a node by its own name.
            Some(Variant::LocalizedText(text))
                if !text.text.is_empty() && one.path.last().is_none_or(|name| *name != text.text.as_ref()) =>
            {
                Some(text.text.to_string())
            }
            _ => None,
        };
    }
    for ((variable, name, _), value) in properties.iter().zip(properties_read) {
        let one = &mut variables[*variable];
        match *name {
            "EURange" => one.range = decoded::<Range>(value).map(|range| (range.low, range.high)).filter(|(low, high)| low < high),
            _ => one.unit = decoded::<EUInformation>(value).map(|unit| unit.display_name.text.to_string()).filter(|unit| !unit.is_empty()),
        }
    }
    Ok(())
}

/// The name of a type that the standard defines.
fn builtin(id: &NodeId) -> Option<String> {
    match (&id.identifier, id.namespace) {
        (Identifier::Numeric(number), 0) => DataTypeId::try_from(*number).ok().map(|id| format!("{id:?}")),
        _ => None,
    }
}

/// A prefix for each namespace in use.
fn prefixes(seen: &Seen) -> BTreeMap<u16, String> {
    let mut prefixes: BTreeMap<u16, String> = BTreeMap::new();
    let used: HashSet<u16> = seen.variables.iter().map(|one| one.node.namespace).filter(|index| *index != 0).collect();
    let mut used: Vec<u16> = used.into_iter().collect();
    used.sort_unstable();
    for index in used {
        let uri = seen.namespaces.get(usize::from(index)).map_or("", String::as_str);
        let last = uri.trim_end_matches('/').rsplit(['/', ':', '#']).next().unwrap_or_default();
        let name: String = last.chars().filter(char::is_ascii_alphabetic).take(12).collect::<String>().to_ascii_lowercase();
        let is_taken = name.is_empty() || prefixes.values().any(|known| *known == name);
        prefixes.insert(index, if is_taken { format!("n{index}") } else { name });
    }
    prefixes
}

fn address(node: &NodeId, prefixes: &BTreeMap<u16, String>) -> String {
    match prefixes.get(&node.namespace) {
        Some(prefix) => format!("{prefix}:{}", node.identifier),
        None => node.to_string(),
    }
}

/// Every tag's name once: levels joined, a `/` within a level escaped; of two equal ones the second has its node's id behind it.
fn names(variables: &[Found]) -> Vec<String> {
    let mut taken = HashSet::new();
    let name = |one: &Found| {
        let path = one.path.iter().map(|level| level.replace('/', "%2F")).collect::<Vec<_>>().join("/");
        if taken.insert(path.clone()) {
            return path;
        }
        let apart = format!("{path} {}", one.node.to_string().replace('/', "%2F"));
        taken.insert(apart.clone());
        apart
    };
    variables.iter().map(name).collect()
}

fn findings(seen: &Seen, request: &Browse) -> Findings {
    let prefixes = prefixes(seen);
    let uri = |index: u16| seen.namespaces.get(usize::from(index)).map_or("", String::as_str);
    let mut source = vec![Entry::value("endpoint", request.url.as_str())];
    if !prefixes.is_empty() {
        let declared = prefixes.iter().map(|(index, prefix)| Entry::value(prefix.as_str(), uri(*index))).collect();
        source.push(Entry::new("namespaces", Shape::Inline(declared)));
    }
    if let Some(security) = &request.security {
        let (policy, mode) = security.split_once('/').unwrap_or((security, "SignAndEncrypt"));
        source.push(Entry::new("security", Shape::Inline(vec![Entry::word("policy", policy), Entry::word("mode", mode)])));
    }
    if let Some(user) = &request.user {
        let login = vec![Entry::value("user", user.as_str()), Entry::value("password", "${env:OPCUA_PASSWORD}")];
        source.push(Entry::new("login", Shape::Inline(login)));
    }
    source.push(Entry::word("topic", "telemetry"));
    let tags = seen.variables.iter().zip(names(&seen.variables)).map(|(one, name)| tag(one, name, &prefixes, uri)).collect();
    let more = || format!("more than {} variables: begin further down with --below, or raise --limit", seen.variables.len());
    Findings { name: "server", source, tags: Some(tags), address: "node", more: seen.is_more.then(more), ..Findings::default() }
}

fn tag<'a>(one: &Found, name: String, prefixes: &BTreeMap<u16, String>, uri: impl Fn(u16) -> &'a str) -> FoundTag {
    let mut options = Vec::new();
    options.extend(one.unit.as_ref().map(|unit| ("unit", unit.as_str().into())));
    if let Some((low, high)) = one.range.filter(|(low, high)| low.is_finite() && high.is_finite()) {
        options.extend([("min", number(low)), ("max", number(high))]);
    }
    options.extend(one.description.as_ref().map(|description| ("description", description.as_str().into())));
    // By the URI of its namespace no prefix need be declared.
    let address_alone = match one.node.namespace {
        0 => one.node.to_string(),
        index => format!("nsu={};{}", uri(index), one.node.identifier),
    };
    FoundTag {
        name,
        under: one.path[..one.path.len() - 1].to_vec(),
        address: address(&one.node, prefixes),
        address_alone,
        kind: one.kind.clone(),
        writable: one.writable,
        value: one.value.clone(),
        options,
    }
}

/// A number as a person would write it: `0`, not `0.0`.
fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let found = |path: &[&str], node: NodeId| Found {
            path: path.iter().map(|level| (*level).to_owned()).collect(),
            node,
            kind: "Double".into(),
            value: "1.5".into(),
            ..Found::default()
        };
        let mut temp = found(&["Press1", "Temp"], NodeId::new(2, "Press1.Temp"));
        (temp.unit, temp.range, temp.description) = (Some("°C".into()), Some((0.0, 900.0)), Some("top, \"left\"".into()));
        Seen {
            variables: vec![
                temp,
                found(&["Press1", "a/b"], NodeId::new(2, 7)),
                found(&["Press1", "a/b"], NodeId::new(2, 8)),
                found(&["true"], NodeId::new(3, "x")),
            ],
            namespaces: vec![
                "http://opcfoundation.org/UA/".into(),
                "urn:s".into(),
                "http://acme.example/press".into(),
                "urn:other:press".into(),
            ],
            is_more: false,
        }
    }

    #[test]
    fn the_yaml_can_be_pasted() {
        let request = Browse { url: "opc.tcp://h:4840".into(), security: Some("Basic256Sha256".into()), ..Browse::default() };
        let expected = r#"sources:
  server:
    type: opcua
    endpoint: "opc.tcp://h:4840"
    namespaces: {press: "http://acme.example/press", n3: "urn:other:press"}
    security: {policy: Basic256Sha256, mode: SignAndEncrypt}
    topic: telemetry
    groups:
      - every: 1s
        tags:
          # Press1
          Press1/Temp: {node: "press:s=Press1.Temp", unit: "°C", min: 0, max: 900, description: "top, \"left\""}   # Double 1.5
          "Press1/a%2Fb": {node: "press:i=7"}   # Double 1.5
          "Press1/a%2Fb ns=2;i=8": {node: "press:i=8"}   # Double 1.5
          # 
          "true": {node: "n3:s=x"}   # Double 1.5
"#;
        assert_eq!(findings(&seen(), &request).yaml("opcua"), expected);
    }

    #[test]
    fn the_table_has_the_columns_of_tags_from() {
        let table = findings(&seen(), &Browse::default()).table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "name,node,unit,min,max,description");
        assert_eq!(lines[1], "Press1/Temp,nsu=http://acme.example/press;s=Press1.Temp,°C,0,900,\"top, \"\"left\"\"\"");
        assert_eq!(lines[4], "true,nsu=urn:other:press;s=x,,,,");
    }
}
