//! How a connector introduces itself to a server that speaks HTTP.

use super::Url;
use millrace_config::{Place, Problems, Secret, Spanned};
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

/// One way to log in: a user with a password, a bearer token, an API key, or OAuth2 client credentials. A client certificate is under `tls`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpLogin {
    /// The user's name, for basic authentication. Wants `password`.
    pub user: Option<String>,
    /// The password of `user`, by reference. Never printed.
    pub password: Option<Secret>,
    /// A token for `Authorization: Bearer`, by reference.
    pub bearer: Option<Secret>,
    /// A key in a header of its own.
    pub api_key: Option<ApiKey>,
    /// OAuth2 client credentials: a token is fetched, and renewed before it ends.
    pub oauth2: Option<OAuth2>,
}

/// A key in a header.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The header's name.
    #[serde(default = "api_key_header")]
    pub header: Spanned<String>,
    /// The key, by reference.
    pub value: Secret,
}

fn api_key_header() -> Spanned<String> {
    "X-API-Key".to_owned().into()
}

/// OAuth2 client credentials (RFC 6749, section 4.4).
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth2 {
    /// Where tokens are fetched.
    pub token_url: Spanned<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's secret, by reference.
    pub client_secret: Secret,
    /// The scopes to ask for, separated by spaces.
    #[serde(default)]
    pub scope: Option<String>,
    /// More fields of the request: `audience`, `resource`.
    #[serde(default)]
    pub fields: std::collections::BTreeMap<String, String>,
    /// Where id and secret stand in the request.
    #[serde(default)]
    pub credentials_in: CredentialsIn,
}

/// Where a client's id and secret stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialsIn {
    /// In the header `Authorization: Basic`.
    #[default]
    Header,
    /// In the form, as `client_id` and `client_secret`.
    Body,
}

impl HttpLogin {
    /// Checks that it is one way and a whole one. `place`: of `login`.
    pub fn check(&self, place: Place, problems: &mut Problems) {
        let ways = [
            ("user", self.user.is_some() || self.password.is_some()),
            ("bearer", self.bearer.is_some()),
            ("api_key", self.api_key.is_some()),
            ("oauth2", self.oauth2.is_some()),
        ];
        let given: Vec<_> = ways.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| format!("`{name}`")).collect();
        match given.len() {
            0 => _ = problems.error(place, "a login needs `user` and `password`, `bearer`, `api_key` or `oauth2`"),
            1 => {}
            _ => _ = problems.error(place, format!("a login is one of {}", given.join(", "))),
        }
        if self.user.is_some() != self.password.is_some() {
            problems.error(place, "`user` and `password` stand together");
        }
        if self.user.as_ref().is_some_and(|user| user.contains(':')) {
            problems.error(place, "a user's name with `:` in it cannot be sent by basic authentication");
        }
        if let Some(key) = &self.api_key
            && HeaderName::from_bytes(key.header.as_bytes()).is_err()
        {
            problems.error(key.header.place, format!("`{}` is not the name of a header", key.header.value));
        }
        for secret in [&self.bearer, &self.api_key.as_ref().map(|key| key.value.clone())].into_iter().flatten() {
            if HeaderValue::from_str(secret.expose()).is_err() {
                problems.error(place, "the secret cannot stand in a header: it has a line break or a control character");
            }
        }
        if let Some(oauth2) = &self.oauth2 {
            super::options::endpoint(&oauth2.token_url, oauth2.token_url.place, problems);
        }
    }

    /// The secrets, which no message may show.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let key = self.api_key.as_ref().map(|key| &key.value);
        let oauth2 = self.oauth2.as_ref().map(|oauth2| &oauth2.client_secret);
        [self.password.as_ref(), self.bearer.as_ref(), key, oauth2].into_iter().flatten()
    }

    /// In a few words, for a plan.
    pub fn words(&self) -> String {
        match self {
            Self { user: Some(user), .. } => format!("as user {user}"),
            Self { bearer: Some(_), .. } => "with a bearer token".into(),
            Self { api_key: Some(key), .. } => format!("with a key in header {}", key.header.value),
            Self { oauth2: Some(oauth2), .. } => format!("as OAuth2 client {} of {}", oauth2.client_id, oauth2.token_url.value),
            _ => "without a login".into(),
        }
    }
}

/// `user:password` in base64, as header.
pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

impl OAuth2 {
    pub(super) fn url(&self) -> Option<Url> {
        Url::parse(&self.token_url).ok()
    }
}
