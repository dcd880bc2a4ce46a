//! Tokens for SASL OAUTHBEARER.
//!
//! The bundled librdkafka has no HTTP client, and nothing of the factory's YAML fetches tokens yet, so the check refuses OAUTHBEARER there; a program
//! that can fetch a token gives it through [`TokenSource`].

/// A bearer token and how long it is good.
#[derive(Clone)]
pub struct Token {
    /// The token as it goes over the wire (a JWT, usually).
    pub value: String,
    /// The name of the principal, as the token says it.
    pub principal: String,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("principal", &self.principal).field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenError(String);

impl TokenError {
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TokenError {}

/// Fetches tokens; called on a client's polling thread, again at four fifths of a token's life, and ten seconds after a failure.
pub trait TokenSource: Send + Sync {
    /// Fetches a fresh token. May block for some seconds.
    fn token(&self) -> Result<Token, TokenError>;
}
