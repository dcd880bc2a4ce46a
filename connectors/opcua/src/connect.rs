//! From an endpoint's URL to an activated session: what was asked for, or the reason why not.
//!
//! ```text
//! url ──GetEndpoints──> the endpoint with the policy and mode asked for ──trusted?──> secure channel ──> sessions nobody goes on with are closed
//!                                                                                         └──> session, kept or new ──> activated
//! ```
//!
//! The channel is the library's; sessions are ours: a kept session is activated on the new channel with the nonce the server last gave it, on
//! encrypted channels, too. Who a server is, [`crate::pki`] decides, before anything is told to it.
//!
//! Invariants: nothing is secured less than asked for.

use crate::channel::{Channel, unexpected};
use crate::leftover::Leftovers;
use crate::login::{Login, blocking};
use crate::pki::Own;
use crate::security::{Accept, Policy};
use crate::session::{Kept, Refused, Session};
use crate::target::Target;
use crate::transport::host_and_port;
use futures_util::FutureExt;
use millrace_contract::Failure;
use opcua::core::ResponseMessage;
use opcua::types::{EndpointDescription, Error, GetEndpointsRequest, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// What a server offers: over an unsecured channel, as the standard has it.
pub async fn endpoints(url: &str, within: Duration) -> Result<Vec<EndpointDescription>, Failure> {
    let asked = async {
        let channel = Channel::open(url, EndpointDescription::from(url), None, within).await?;
        let request =
            GetEndpointsRequest { request_header: channel.header(within), endpoint_url: url.into(), locale_ids: None, profile_uris: None };
        let answer = channel.send(request, within).await?;
        channel.close().now_or_never();
        match answer {
            ResponseMessage::GetEndpoints(answer) => Ok(answer.endpoints.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    };
    asked.await.map_err(|error| failure(url, "cannot ask", &error))
}

/// What the engine does after this error.
pub fn failure(url: &str, what: &str, error: &Error) -> Failure {
    let status = error.status();
    let text = format!("{what} {url}: {error}");
    let hint = match status {
        StatusCode::BadUserAccessDenied | StatusCode::BadIdentityTokenRejected | StatusCode::BadIdentityTokenInvalid => {
            "; check `login` and the server's users"
        }
        StatusCode::BadSecurityChecksFailed
        | StatusCode::BadCertificateUntrusted
        | StatusCode::BadCertificateInvalid
        | StatusCode::BadCertificateUriInvalid
        | StatusCode::BadCertificateUseNotAllowed
        | StatusCode::BadCertificateTimeInvalid
        | StatusCode::BadCertificateRevoked
        | StatusCode::BadCertificateChainIncomplete
        | StatusCode::BadCertificateIssuerTimeInvalid => {
            "; the server does not trust Millrace's certificate: take it there with `millrace pki export` and approve it"
        }
        StatusCode::BadSecurityPolicyRejected | StatusCode::BadSecurityModeRejected => "; check `security` and `login`",
        _ => return Failure::Reconnect(text),
    };
    Failure::Blocked(format!("{text}{hint}"))
}

/// The endpoint that is secured as asked; never another.
fn choose(offered: Vec<EndpointDescription>, target: &Target) -> Result<EndpointDescription, Failure> {
    let binary = |endpoint: &EndpointDescription| {
        let transport = endpoint.transport_profile_uri.as_ref();
        transport.is_empty() || transport.ends_with("/uatcp-uasc-uabinary")
    };
    let mut had = Vec::new();
    for endpoint in offered.into_iter().filter(binary) {
        if endpoint.security_mode == target.mode.of_the_library() && endpoint.security_policy_uri.as_ref() == target.policy.uri() {
            return Ok(endpoint);
        }
        let policy = endpoint.security_policy_uri.as_ref();
        had.push(format!("{} {:?}", policy.rsplit_once('#').map_or(policy, |(_, name)| name), endpoint.security_mode));
    }
    had.sort_unstable();
    had.dedup();
    Err(Failure::Blocked(format!(
        "{} does not offer {:?} with {:?}; it offers {}; change `security`, or the server",
        target.url,
        target.policy,
        target.mode,
        if had.is_empty() { "nothing over opc.tcp".to_owned() } else { had.join(", ") }
    )))
}

/// Connects, and activates the kept session; or a new one, where there is none or the server no longer knows it. Sessions on that server that nobody
/// goes on with are closed before.
pub async fn connect(target: &Target, kept: Option<Kept>, leftovers: Option<&Leftovers>) -> Result<Session, Failure> {
    let url = &target.url;
    let endpoint = choose(endpoints(url, target.answer_within).await?, target)?;
    let secured = target.policy != Policy::None;
    let own = if secured { Some(trusted(target, &endpoint).await?) } else { None };
    let open = Channel::open(url, endpoint.clone(), own.as_ref(), target.answer_within).await;
    let mut channel = open.map_err(|error| failure(url, "cannot connect to", &error))?;
    let login = Login::of(target, endpoint.clone(), own.clone()).await?;
    if let Some(leftovers) = leftovers
        && close_left(target, &channel, &login, leftovers, kept.as_ref()).await?
        && channel.closed().is_some()
    {
        // Some servers close the connection with a session.
        let open = Channel::open(url, endpoint, own.as_ref(), target.answer_within).await;
        channel = open.map_err(|error| failure(url, "cannot connect to", &error))?;
    }
    if let Some(kept) = kept {
        match login.activate(&channel, &kept).await {
            Ok(nonce) => return Ok(Session::new(channel, Kept { nonce, ..kept }, true, target.answer_within)),
            // A server may close the connection on it; then a new session begins on a new one.
            Err(error) if channel.closed().is_some() => {
                tracing::info!(endpoint = %url, %error, "the server does not go on with the session; a new one begins");
                return Box::pin(connect(target, None, leftovers)).await;
            }
            Err(error) => tracing::info!(endpoint = %url, %error, "the server no longer knows the session; a new one begins"),
        }
    }
    let created = login.create(&channel).await.map_err(|error| match error.status() {
        StatusCode::BadTooManySessions => {
            let (lifetime, name) = (target.session_timeout, &target.name);
            let why = format!(
                "cannot open a session on {url}: {error}; sessions of earlier starts are kept there for their `lifetime`, {lifetime:?}: close those named \
                 `{name}` on the server or wait, and set `on_stop: close` where a PLC has few sessions"
            );
            Failure::RetryAfter(Duration::from_secs(30), why)
        }
        _ => failure(url, "cannot open a session on", &error),
    })?;
    let nonce = login.activate(&channel, &created).await.map_err(|error| failure(url, "cannot log in to", &error))?;
    Ok(Session::new(channel, Kept { nonce, ..created }, false, target.answer_within))
}

/// Closes the sessions on this server that nobody goes on with, with their subscriptions. Returns whether there were any.
async fn close_left(
    target: &Target,
    channel: &Channel,
    login: &Login<'_>,
    leftovers: &Leftovers,
    kept: Option<&Kept>,
) -> Result<bool, Failure> {
    let found = {
        let (leftovers, url, kept) = (leftovers.clone(), target.url.clone(), kept.cloned());
        blocking(move || leftovers.on(&url, kept.as_ref())).await?
    };
    for left in &found {
        if channel.closed().is_some() {
            break;
        }
        let closed = match login.activate(channel, &left.kept).await {
            Ok(_) => login.close(channel).await,
            Err(error) => Err(error),
        };
        match closed {
            Ok(()) => {
                tracing::info!(endpoint = %target.url, of = left.source, "closed a session that nobody goes on with, with its subscriptions")
            }
            Err(error) => {
                tracing::debug!(endpoint = %target.url, of = left.source, %error, "a session that nobody goes on with is gone already")
            }
        }
        left.forget();
    }
    channel.token.store(Arc::default());
    Ok(!found.is_empty())
}

/// Our own certificate, if the server's is trusted.
async fn trusted(target: &Target, endpoint: &EndpointDescription) -> Result<Own, Failure> {
    let (pki, accept) = (target.pki.clone(), target.accept.clone());
    let certificate = endpoint.server_certificate.as_ref().to_vec();
    let application = endpoint.server.application_uri.as_ref().to_owned();
    let host = host_and_port(&target.url).map_or_else(String::new, |(host, _)| host.to_owned());
    let judged =
        blocking(move || pki.judge(&certificate, &host, &application, &accept).and_then(|put_up_with| Ok((put_up_with, pki.own()?))))
            .await?;
    let (put_up_with, own) = judged.map_err(|why| Failure::Blocked(format!("cannot trust {}: {why}", target.url)))?;
    for fault in put_up_with {
        tracing::warn!(endpoint = %target.url, accepted = fault.accept().map_or("", Accept::name), "the server's certificate {fault}, which `security` accepts");
    }
    Ok(own)
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Reconnect(refused.to_string())
    }
}
