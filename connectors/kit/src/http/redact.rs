//! What of a request may be shown: a URL without the values of telling parameters, a text without any secret.

use super::Url;
use millrace_config::Secret;

/// Names of query parameters whose values are not shown, as parts of the name, in lower case.
const TELLING: [&str; 9] = ["api_key", "apikey", "access_token", "auth", "password", "passwd", "secret", "signature", "credential"];
/// A text of a server is cut to this many characters.
const SHOWN: usize = 500;

/// A URL for a message: no user, no password, no fragment, no value of a telling parameter.
pub fn url(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if let Some(query) = url.query() {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((name, _)) if is_telling(name) => format!("{name}=..."),
            _ => part.to_owned(),
        });
        shown.set_query(Some(&parts.collect::<Vec<_>>().join("&")));
    }
    shown.into()
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|part| name.contains(part)) || ["key", "token", "sig", "code"].contains(&name.as_str())
}

/// What a server said, for a message: one line, cut, without control characters and without the secrets.
pub fn text<'s>(said: &str, secrets: impl Iterator<Item = &'s Secret>) -> String {
    let mut line = said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    for secret in secrets.filter(|secret| secret.expose().len() >= 4) {
        line = line.replace(secret.expose(), "<secret>");
    }
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
