//! An OAuth2 token: fetched once for all who wait, renewed before it ends.

use super::error::HttpError;
use super::login::{CredentialsIn, OAuth2, basic};
use super::message::{Expect, Request};
use super::transport::Transport;
use super::{Method, Url, redact};
use millrace_config::Secret;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A token is renewed when a tenth of its life is left, at least this long before its end, but not before half of it.
const AHEAD: Duration = Duration::from_secs(30);
/// A year: what ends later, or what the server counts wrongly, is renewed then.
const LONGEST: u64 = 366 * 86_400;

pub(super) struct Token {
    oauth2: OAuth2,
    url: Url,
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    secret: Secret,
    /// `None`: the server does not say; it holds until it is refused.
    renew_at: Option<Instant>,
}

/// RFC 6749, sections 5.1 and 5.2.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
    #[serde(default)]
    token_type: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Token {
    pub fn new(oauth2: &OAuth2, url: Url) -> Self {
        Self { oauth2: oauth2.clone(), url, current: Mutex::default() }
    }

    /// A token that holds for a while. `refused`: this one does not.
    pub async fn get(&self, transport: &Transport, refused: Option<&Secret>) -> Result<Secret, HttpError> {
        let mut current = self.current.lock().await;
        if let Some(token) = &*current
            && Some(&token.secret) != refused
            && token.renew_at.is_none_or(|at| Instant::now() < at)
        {
            return Ok(token.secret.clone());
        }
        let token = self.fetch(transport).await?;
        let secret = token.secret.clone();
        *current = Some(token);
        Ok(secret)
    }

    /// The body of a request for a token.
    fn form(&self) -> Vec<u8> {
        let OAuth2 { client_id, client_secret, scope, fields, .. } = &self.oauth2;
        let mut form = self.url.clone();
        let mut pairs = form.query_pairs_mut();
        pairs.clear().append_pair("grant_type", "client_credentials");
        if let Some(scope) = scope {
            pairs.append_pair("scope", scope);
        }
        for (name, value) in fields {
            pairs.append_pair(name, value);
        }
        if self.oauth2.credentials_in == CredentialsIn::Body {
            pairs.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose());
        }
        drop(pairs);
        form.query().unwrap_or_default().as_bytes().to_vec()
    }

    async fn fetch(&self, transport: &Transport) -> Result<Current, HttpError> {
        let asked_at = Instant::now();
        let OAuth2 { client_id, client_secret, .. } = &self.oauth2;
        let mut request =
            Request::new(Method::POST, self.url.clone()).expect(Expect::Json).body("application/x-www-form-urlencoded", self.form());
        if self.oauth2.credentials_in == CredentialsIn::Header {
            // Section 2.3.1: both are form-encoded first.
            request = request.header("authorization", &basic(&escape(client_id), &escape(client_secret.expose())));
        }
        let url = redact::url(&self.url);
        let answer = transport.exchange(&request, None).await?.collect().await?;
        if !answer.status.is_success() {
            let text = redact::text(&answer.text(), [client_secret].into_iter());
            return Err(match serde_json::from_slice::<Refusal>(&answer.body) {
                Ok(no) => HttpError::Login {
                    url,
                    cause: redact::text(&format!("{} {}", no.error, no.error_description), [client_secret].into_iter()),
                },
                Err(_) if answer.status.is_client_error() => HttpError::Login { url, cause: format!("{} {text}", answer.status) },
                Err(_) => HttpError::Status { url, status: answer.status, text },
            });
        }
        let wrong = |cause: &str| HttpError::Login { url: url.clone(), cause: cause.to_owned() };
        let answer: Answer = serde_json::from_slice(&answer.body).map_err(|_| wrong("the answer is not a token in JSON"))?;
        if !answer.token_type.is_empty() && !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(wrong("the token is not a bearer token"));
        }
        let secret = answer.access_token.filter(|token| !token.is_empty()).ok_or_else(|| wrong("the answer has no `access_token`"))?;
        let seconds = answer.expires_in.as_f64().or_else(|| answer.expires_in.as_str()?.trim().parse().ok());
        let renew_at = seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0).map(|seconds| {
            let life = Duration::from_secs_f64(seconds.min(LONGEST as f64));
            asked_at + life - (life / 10).max(AHEAD).min(life / 2)
        });
        tracing::debug!(url, "fetched a token");
        Ok(Current { secret: Secret::new(secret), renew_at })
    }
}

fn escape(text: &str) -> String {
    let mut url = Url::parse("http://form").expect("is a URL");
    url.query_pairs_mut().append_pair("", text);
    url.query().unwrap_or_default().trim_start_matches('=').to_owned()
}
