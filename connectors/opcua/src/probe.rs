//! `millrace probe opcua ENDPOINT`: who a server is, how it may be reached, and what it says of its limits.
//!
//! Read only; one connection at a time: the endpoints over the first, everything else over the second. Nothing is subscribed.

use crate::connect::endpoints;
use crate::inspect::{apart, open, shown, target};
use crate::pki::describe_text;
use crate::session::{Session, value_of};
use millrace_contract::Browse;
use opcua::types::{DataValue, EndpointDescription, NodeId, UserTokenType, VariableId, Variant};
use serde_json::{Map, Value as Json, json};
use std::future::Future;
use std::pin::Pin;

/// What is asked, by the names a person knows them.
const ASKED: [(&str, &str, VariableId); 25] = [
    ("server", "product", VariableId::Server_ServerStatus_BuildInfo_ProductName),
    ("server", "manufacturer", VariableId::Server_ServerStatus_BuildInfo_ManufacturerName),
    ("server", "version", VariableId::Server_ServerStatus_BuildInfo_SoftwareVersion),
    ("server", "state", VariableId::Server_ServerStatus_State),
    ("server", "started", VariableId::Server_ServerStatus_StartTime),
    ("server", "now", VariableId::Server_ServerStatus_CurrentTime),
    ("server", "service_level", VariableId::Server_ServiceLevel),
    ("server", "redundancy", VariableId::Server_ServerRedundancy_RedundancySupport),
    ("limits", "min_sampling_ms", VariableId::Server_ServerCapabilities_MinSupportedSampleRate),
    ("limits", "array_length", VariableId::Server_ServerCapabilities_MaxArrayLength),
    ("limits", "string_length", VariableId::Server_ServerCapabilities_MaxStringLength),
    ("limits", "sessions", VariableId::Server_ServerCapabilities_MaxSessions),
    ("limits", "subscriptions", VariableId::Server_ServerCapabilities_MaxSubscriptions),
    ("limits", "subscriptions_per_session", VariableId::Server_ServerCapabilities_MaxSubscriptionsPerSession),
    ("limits", "items_per_subscription", VariableId::Server_ServerCapabilities_MaxMonitoredItemsPerSubscription),
    ("limits", "queue", VariableId::Server_ServerCapabilities_MaxMonitoredItemsQueueSize),
    ("limits", "nodes_per_read", VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead),
    ("limits", "nodes_per_write", VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite),
    ("limits", "nodes_per_browse", VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse),
    ("limits", "nodes_per_history_read", VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData),
    ("limits", "items_per_call", VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
    ("history", "values", VariableId::HistoryServerCapabilities_AccessHistoryDataCapability),
    ("history", "events", VariableId::HistoryServerCapabilities_AccessHistoryEventsCapability),
    ("history", "values_per_node", VariableId::HistoryServerCapabilities_MaxReturnDataValues),
    ("history", "server_timestamps", VariableId::HistoryServerCapabilities_ServerTimestampSupported),
];

/// Looks at a server and says what it found, as lines or (`json`) as JSON.
pub fn probe(request: Browse) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> {
    apart(|| async move {
        let report = look(&request).await?;
        Ok(if request.json { format!("{report:#}\n") } else { lines(&report) })
    })
}

async fn look(request: &Browse) -> Result<Json, String> {
    let offered = endpoints(&request.url, target(request)?.answer_within).await.map_err(|failure| failure.to_string())?;
    let mut report = Map::new();
    report.insert("endpoints".into(), offered.iter().map(endpoint).collect());
    match open(request).await {
        Ok(session) => {
            let asked = ask(&session, &mut report).await;
            session.close(true).await;
            asked?;
        }
        // What it offers is worth knowing to whom it lets in no further.
        Err(error) => drop(report.insert("no_session".into(), error.into())),
    }
    Ok(report.into())
}

fn endpoint(endpoint: &EndpointDescription) -> Json {
    let policy = endpoint.security_policy_uri.as_ref();
    let tokens = endpoint.user_identity_tokens.iter().flatten().map(|token| match token.token_type {
        UserTokenType::Anonymous => "anonymous",
        UserTokenType::UserName => "user",
        UserTokenType::Certificate => "certificate",
        UserTokenType::IssuedToken => "token",
    });
    let mut tokens: Vec<&str> = tokens.collect();
    tokens.dedup();
    json!({
        "url": endpoint.endpoint_url.as_ref(),
        "policy": policy.rsplit_once('#').map_or(policy, |(_, name)| name),
        "mode": format!("{:?}", endpoint.security_mode),
        "login": tokens.join(", "),
        "application": endpoint.server.application_uri.as_ref(),
        "certificate": describe_text(endpoint.server_certificate.as_ref()),
    })
}

async fn ask(session: &Session, report: &mut Map<String, Json>) -> Result<(), String> {
    let wanted: Vec<_> = ASKED.iter().map(|(.., id)| value_of(NodeId::from(*id))).collect();
    let values = session.read(&wanted).await.map_err(|refused| refused.to_string())?;
    for ((part, name, _), value) in ASKED.iter().zip(&values) {
        // What a server does not have it does not say.
        let is_empty = match &value.value {
            None | Some(Variant::Empty) => true,
            Some(Variant::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if value.status().is_bad() || is_empty {
            continue;
        }
        let part = report.entry(*part).or_insert_with(|| Map::new().into());
        part[*name] = answer(name, value);
    }
    report.insert("namespaces".into(), session.space().uris().collect());
    let profiles = session.read(&[value_of(VariableId::Server_ServerCapabilities_ServerProfileArray.into())]).await;
    if let Ok(profiles) = profiles
        && let Some(Some(Variant::Array(profiles))) = profiles.first().map(|value| &value.value)
    {
        report.insert("profiles".into(), profiles.values.iter().map(|profile| Json::from(profile.to_string())).collect());
    }
    Ok(())
}

fn answer(name: &str, value: &DataValue) -> Json {
    const STATES: [&str; 8] = ["running", "failed", "no configuration", "suspended", "shutdown", "test", "communication fault", "unknown"];
    const REDUNDANCY: [&str; 6] = ["none", "cold", "warm", "hot", "transparent", "hot and mirrored"];
    match (&value.value, name) {
        (Some(Variant::Int32(state)), "state" | "redundancy") => {
            let names: &[&str] = if name == "state" { &STATES } else { &REDUNDANCY };
            usize::try_from(*state).ok().and_then(|state| names.get(state)).map_or_else(|| json!(state), |name| json!(name))
        }
        (Some(Variant::UInt32(number)), _) => json!(number),
        (Some(Variant::UInt16(number)), _) => json!(number),
        (Some(Variant::Byte(number)), _) => json!(number),
        (Some(Variant::Double(number)), _) => json!(number),
        (Some(Variant::Boolean(yes)), _) => json!(yes),
        (Some(Variant::String(text)), _) => json!(text.as_ref()),
        _ => json!(shown(value)),
    }
}

/// One line a fact; a limit of 0 is none.
fn lines(report: &Json) -> String {
    let mut out = String::new();
    let said = |value: &Json| match value {
        Json::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    };
    for (part, value) in report.as_object().into_iter().flatten() {
        match value {
            Json::Array(items) => {
                out += &format!("{part}\n");
                for item in items {
                    let line = match item.as_object() {
                        Some(fields) => fields.values().map(said).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("  "),
                        None => said(item),
                    };
                    out += &format!("  {line}\n");
                }
            }
            Json::Object(facts) => {
                out += &format!("{part}\n");
                for (name, value) in facts {
                    let none = part == "limits" && value.as_f64() == Some(0.0);
                    out += &format!("  {name:<26}{}\n", if none { "no limit".into() } else { said(value) });
                }
            }
            one => out += &format!("{part}  {}\n", said(one)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_lines_of_facts() {
        let report = json!({
            "endpoints": [{"url": "opc.tcp://h", "policy": "None", "mode": "None", "login": "anonymous", "certificate": ""}],
            "limits": {"nodes_per_read": 0, "queue": 10},
            "namespaces": ["http://opcfoundation.org/UA/"],
        });
        let expected = "endpoints\n  opc.tcp://h  None  None  anonymous\nlimits\n  nodes_per_read            no limit\n  \
                        queue                     10\nnamespaces\n  http://opcfoundation.org/UA/\n";
        assert_eq!(lines(&report), expected);
    }

    #[test]
    fn states_have_names_and_unknown_ones_their_number() {
        let state = |number: i32| answer("state", &DataValue::value_only(number));
        assert_eq!((state(0), state(7), state(99)), (json!("running"), json!("unknown"), json!(99)));
    }
}
