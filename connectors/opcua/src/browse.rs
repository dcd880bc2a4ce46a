//! `millrace browse opcua ENDPOINT`: what a server has, as a source to paste under `sources:`, or as a table for `tags_from`.
//!
//! Read only, one session. Bounded: so many variables, so many nodes, ten levels. `--below` begins elsewhere than at `Objects`, which is shown
//! without what the standard itself puts there (`Server`, `Aliases`), and variables without the settings of their history.

use crate::address::{Address, Start};
use crate::inspect::{apart, decoded, open, shown};
use crate::session::{Session, attribute_of, children_of, value_of};
use millrace_contract::Browse;
use opcua::types::{
    AttributeId, DataTypeId, DataValue, EUInformation, Identifier, NodeClass, NodeId, Range, ReferenceDescription, ReferenceTypeId, Variant,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;

const DEPTH: usize = 10;
const MOST_NODES: usize = 200_000;

/// Looks at a server and describes what it has.
pub fn browse(request: Browse) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> {
    apart(|| async move {
        let session = open(&request).await?;
        let found = look(&session, &request).await;
        session.close(true).await;
        let found = found?;
        Ok(if request.csv { table(&found) } else { yaml(&found, &request) })
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
}

#[derive(Debug, Default)]
struct Seen {
    variables: Vec<Found>,
    /// By index.
    namespaces: Vec<String>,
    is_more: bool,
}

async fn look(session: &Session, request: &Browse) -> Result<Seen, String> {
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

async fn start(session: &Session, request: &Browse) -> Result<NodeId, String> {
    let Some(text) = &request.below else { return Ok(Start::Objects.node_id()) };
    let space = session.space();
    match Address::parse(text, &Default::default())? {
        Address::Id(namespace, identifier) => {
            space.node_id(&namespace, &identifier).ok_or_else(|| format!("{} has no namespace {namespace}", request.url))
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
    let mut wanted = Vec::with_capacity(variables.len() * 3 + properties.len());
    for attribute in [AttributeId::Value, AttributeId::DataType, AttributeId::Description] {
        wanted.extend(variables.iter().map(|one| attribute_of(one.node.clone(), attribute)));
    }
    wanted.extend(properties.iter().map(|(.., node)| value_of(node.clone())));
    let answers = session.read(&wanted).await?;
    let (values, rest) = answers.split_at(variables.len());
    let (types, rest) = rest.split_at(variables.len());
    let (descriptions, properties_read) = rest.split_at(variables.len());
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

/// JSON's quoted texts are YAML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn key(text: &str) -> String {
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "_/.-".contains(c));
    if is_plain && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn number(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}

fn yaml(seen: &Seen, request: &Browse) -> String {
    let prefixes = prefixes(seen);
    let mut out = String::from("sources:\n  server:\n    type: opcua\n");
    let _ = writeln!(out, "    endpoint: {}", quoted(&request.url));
    if !prefixes.is_empty() {
        let uri = |index: &u16| seen.namespaces.get(usize::from(*index)).map_or("", String::as_str);
        let declared: Vec<String> = prefixes.iter().map(|(index, prefix)| format!("{prefix}: {}", quoted(uri(index)))).collect();
        let _ = writeln!(out, "    namespaces: {{{}}}", declared.join(", "));
    }
    if let Some(security) = &request.security {
        let (policy, mode) = security.split_once('/').unwrap_or((security, "SignAndEncrypt"));
        let _ = writeln!(out, "    security: {{policy: {policy}, mode: {mode}}}");
    }
    if let Some(user) = &request.user {
        let _ = writeln!(out, "    login: {{user: {}, password: \"${{env:OPCUA_PASSWORD}}\"}}", quoted(user));
    }
    out += "    topic: telemetry\n    groups:\n      - every: 1s\n        tags:\n";
    if seen.variables.is_empty() {
        out += "          # nothing found\n";
    }
    let mut above: &[String] = &[];
    for (one, name) in seen.variables.iter().zip(names(&seen.variables)) {
        let parent = &one.path[..one.path.len() - 1];
        if parent != above {
            let _ = writeln!(out, "          # {}", parent.join(" / ").replace(char::is_control, " "));
            above = parent;
        }
        let mut line = format!("{{node: {}", quoted(&address(&one.node, &prefixes)));
        if let Some(unit) = &one.unit {
            let _ = write!(line, ", unit: {}", quoted(unit));
        }
        if let Some((low, high)) = one.range.filter(|(low, high)| low.is_finite() && high.is_finite()) {
            let _ = write!(line, ", min: {low}, max: {high}");
        }
        if let Some(description) = &one.description {
            let _ = write!(line, ", description: {}", quoted(description));
        }
        let _ = writeln!(out, "          {}: {line}}}   # {} {}", key(&name), one.kind, one.value.replace(char::is_control, " "));
    }
    if seen.is_more {
        let _ = writeln!(out, "# more than {} variables: begin further down with --below, or raise --limit", seen.variables.len());
    }
    out
}

/// The columns of `tags_from`; nodes by the URIs of their namespaces, so that no prefix need be declared.
fn table(seen: &Seen) -> String {
    let cell =
        |text: &str| if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() };
    let mut out = String::from("name,node,unit,min,max,description\n");
    for (one, name) in seen.variables.iter().zip(names(&seen.variables)) {
        let node = match seen.namespaces.get(usize::from(one.node.namespace)).filter(|_| one.node.namespace != 0) {
            Some(uri) => format!("nsu={uri};{}", one.node.identifier),
            None => one.node.to_string(),
        };
        let (low, high) = one.range.map_or((String::new(), String::new()), |(low, high)| (number(low), number(high)));
        let (unit, description) = (one.unit.as_deref().unwrap_or_default(), one.description.as_deref().unwrap_or_default());
        let cells = [&name, &node, unit, &low, &high, description].map(cell);
        let _ = writeln!(out, "{}", cells.join(","));
    }
    out
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
        assert_eq!(yaml(&seen(), &request), expected);
    }

    #[test]
    fn the_table_has_the_columns_of_tags_from() {
        let table = table(&seen());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "name,node,unit,min,max,description");
        assert_eq!(lines[1], "Press1/Temp,nsu=http://acme.example/press;s=Press1.Temp,°C,0,900,\"top, \"\"left\"\"\"");
        assert_eq!(lines[4], "true,nsu=urn:other:press;s=x,,,,");
    }
}
