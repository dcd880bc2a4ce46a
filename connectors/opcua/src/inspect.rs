//! What `browse` and `probe` have in common: a session on a server that no YAML names yet.

use crate::connect::connect;
use crate::pki::Pki;
use crate::security::{Mode, Policy};
use crate::session::Session;
use crate::target::{Identity, Target};
use millrace_config::{Reason, Secret};
use millrace_contract::plugin::Looking;
use millrace_contract::{Browse, Findings};
use opcua::types::{BinaryDecodable, ByteStringBody, ContextOwned, DataValue, Variant};
use std::future::Future;
use std::time::Duration;

/// Runs a look from beginning to end on a thread of its own: what it holds meanwhile need not be fit for others.
pub fn apart<F: Future<Output = Result<Findings, Reason>>>(look: impl FnOnce() -> F + Send + 'static) -> Looking {
    let run = move || tokio::runtime::Handle::current().block_on(look());
    Box::pin(async move { tokio::task::spawn_blocking(run).await.map_err(|error| error.to_string())? })
}

/// Who is asked, and how: unsecured unless `--security` says otherwise.
pub fn target(request: &Browse) -> Result<Target, Reason> {
    let (policy, mode) = match &request.security {
        None => (Policy::None, Mode::None),
        Some(text) => {
            let (policy, mode) = text.split_once('/').unwrap_or((text, "SignAndEncrypt"));
            let unknown =
                || format!("no such security: `{text}`; write `Basic256Sha256`, `Aes128_Sha256_RsaOaep/Sign`, `Aes256_Sha256_RsaPss`");
            let policy: Policy = serde_json::from_value(policy.into()).map_err(|_| unknown())?;
            let mode: Mode = serde_json::from_value(mode.into()).map_err(|_| unknown())?;
            if (policy == Policy::None) != (mode == Mode::None) {
                return Err(unknown().into());
            }
            (policy, mode)
        }
    };
    let identity = match &request.user {
        None => Identity::Anonymous,
        Some(user) => Identity::User(user.clone(), Secret::new(request.password.clone().unwrap_or_default())),
    };
    Ok(Target {
        url: request.url.clone(),
        policy,
        mode,
        accept: [].into(),
        identity,
        pki: Pki::new(request.data_dir.join("pki")),
        name: "millrace, looking".into(),
        answer_within: Duration::from_secs(10),
        session_timeout: Duration::from_secs(60),
    })
}

pub async fn open(request: &Browse) -> Result<Session, Reason> {
    let session = connect(&target(request)?, None, None).await.map_err(|failure| failure.to_string())?;
    session.prepare().await.map_err(|refused| refused.to_string())?;
    Ok(session)
}

/// An extension object of a type that the standard itself defines; the session leaves them as bytes.
pub fn decoded<T: BinaryDecodable>(value: &DataValue) -> Option<T> {
    let Some(Variant::ExtensionObject(object)) = &value.value else { return None };
    let body = object.inner_as::<ByteStringBody>()?.raw_body();
    T::decode(&mut body.as_ref(), &ContextOwned::default().context()).ok()
}

/// A value for a person, in few characters.
pub fn shown(value: &DataValue) -> String {
    let status = value.status();
    if status.is_bad() {
        return format!("{status}");
    }
    let text = match &value.value {
        None | Some(Variant::Empty) => "null".into(),
        Some(Variant::Array(array)) => return format!("[{} values]", array.values.len()),
        Some(Variant::ExtensionObject(_)) => return "{..}".into(),
        Some(Variant::ByteString(bytes)) => return format!("{} bytes", bytes.as_ref().len()),
        Some(Variant::LocalizedText(text)) => text.text.to_string(),
        Some(Variant::String(text)) => format!("{:?}", text.as_ref()),
        Some(Variant::QualifiedName(name)) => format!("{}:{}", name.namespace_index, name.name.as_ref()),
        Some(Variant::StatusCode(status)) => format!("{status}"),
        Some(value) => value.to_string(),
    };
    const MOST_CHARACTERS: usize = 40;
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_is_asked_for_by_name_and_never_guessed() {
        let target = |security: Option<&str>| {
            let request = Browse { url: "opc.tcp://h".into(), security: security.map(str::to_owned), ..Browse::default() };
            target(&request).map(|target| (target.policy, target.mode))
        };
        assert_eq!(target(None), Ok((Policy::None, Mode::None)));
        assert_eq!(target(Some("Basic256Sha256")), Ok((Policy::Basic256Sha256, Mode::SignAndEncrypt)));
        assert_eq!(target(Some("Aes256_Sha256_RsaPss/Sign")), Ok((Policy::Aes256Sha256RsaPss, Mode::Sign)));
        for wrong in ["basic", "Basic256Sha256/None", "None/Sign", "Basic256Sha256/", "None"] {
            assert!(target(Some(wrong)).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn values_are_shown_short() {
        let shown = |variant: Variant| super::shown(&DataValue::value_only(variant));
        assert_eq!(shown(Variant::Double(1.5)), "1.5");
        assert_eq!(shown(Variant::from("a\nb")), "\"a\\nb\"");
        assert_eq!(shown(Variant::from("ä".repeat(50))).chars().count(), 42);
        assert_eq!(shown(Variant::from(vec![1i32, 2])), "[2 values]");
        assert_eq!(super::shown(&DataValue::default()), "null");
    }
}
