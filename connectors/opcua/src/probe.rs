//! `millrace probe opcua ENDPOINT`: who a server is, how it may be reached, and what it says of its limits.
//!
//! Read only; one connection at a time: the endpoints over the first, everything else over the second. Nothing is subscribed.

use crate::connect::endpoints;
use crate::inspect::{apart, open, shown, target};
use crate::pki::describe_text;
use crate::session::{Session, value_of};
use millrace_config::Reason;
use millrace_contract::found::Facts;
use millrace_contract::plugin::Looking;
use millrace_contract::{Browse, Findings};
use opcua::types::{DataValue, EndpointDescription, NodeId, UserTokenType, VariableId, Variant};
use serde_json::{Value as Json, json};

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

/// Looks at a server and says what it found.
pub fn probe(request: Browse) -> Looking {
    apart(|| async move { look(&request).await })
}

async fn look(request: &Browse) -> Result<Findings, Reason> {
    let offered = endpoints(&request.url, target(request)?.answer_within).await.map_err(|failure| failure.to_string())?;
    let mut facts = vec![("endpoints".to_owned(), Facts::Items(offered.iter().map(endpoint).collect()))];
    match open(request).await {
        Ok(session) => {
            let asked = ask(&session, &mut facts).await;
            session.close(true).await;
            asked?;
        }
        // What it offers is worth knowing to whom it lets in no further.
        Err(error) => facts.push(("no_session".to_owned(), Facts::One(String::from(error).into()))),
    }
    Ok(Findings { facts, ..Findings::default() })
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

async fn ask(session: &Session, facts: &mut Vec<(String, Facts)>) -> Result<(), Reason> {
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
        let fact = ((*name).to_owned(), answer(name, value));
        match facts.last_mut() {
            Some((heading, Facts::Named(named))) if heading == part => named.push(fact),
            _ => facts.push(((*part).to_owned(), Facts::Named(vec![fact]))),
        }
    }
    facts.push(("namespaces".to_owned(), Facts::Items(session.space().uris().map(Json::from).collect())));
    let profiles = session.read(&[value_of(VariableId::Server_ServerCapabilities_ServerProfileArray.into())]).await;
    if let Ok(profiles) = profiles
        && let Some(Some(Variant::Array(profiles))) = profiles.first().map(|value| &value.value)
    {
        let profiles = profiles.values.iter().map(|profile| Json::from(profile.to_string())).collect();
        facts.push(("profiles".to_owned(), Facts::Items(profiles)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_names_and_unknown_ones_their_number() {
        let state = |number: i32| answer("state", &DataValue::value_only(number));
        assert_eq!((state(0), state(7), state(99)), (json!("running"), json!("unknown"), json!(99)));
    }
}
