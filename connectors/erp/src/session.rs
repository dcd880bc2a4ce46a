//! What a server remembers of us, and wants to see again: session cookies, and the token against forged requests that belongs to them.
//!
//! SAP: GET with `x-csrf-token: Fetch` answers with a token and cookies; a write carries both; 403 with `x-csrf-token: Required` means that they
//! do not belong together any more. A service that gives no token wants none.

use crate::metadata::Version;
use crate::service::Service;
use millrace_kit::http::{Expect, HttpError, Request, Response, StatusCode};
use std::collections::BTreeMap;

const TOKEN: &str = "x-csrf-token";

#[derive(Debug, Default)]
pub struct Session {
    cookies: BTreeMap<String, String>,
    token: Option<String>,
    /// Whether the service was asked for a token.
    is_asked: bool,
}

impl Session {
    /// Sends a write with token and cookies; once more with new ones where they are refused: such a write was not carried out.
    pub async fn write(&mut self, service: &Service, request: &Request, version: Version) -> Result<Response, HttpError> {
        for is_last in [false, true] {
            if !self.is_asked {
                self.fetch(service, version).await?;
            }
            let mut sent = self.with_cookies(request.clone());
            if let Some(token) = &self.token {
                sent = sent.header(TOKEN, token);
            }
            let answer = service.send(&sent).await?;
            self.remember(&answer);
            let is_refused = answer.status == StatusCode::FORBIDDEN && answer.header(TOKEN).eq_ignore_ascii_case("required");
            if !is_refused || is_last {
                return Ok(answer);
            }
            *self = Self::default();
        }
        unreachable!("the last try returns")
    }

    /// Reads with the session's cookies.
    pub async fn read(&mut self, service: &Service, request: Request) -> Result<Response, HttpError> {
        let answer = service.send(&self.with_cookies(request)).await?;
        self.remember(&answer);
        Ok(answer)
    }

    async fn fetch(&mut self, service: &Service, version: Version) -> Result<(), HttpError> {
        // GET, not HEAD, which some refuse; with the slash, for a redirect loses the token.
        let request = Request::get(service.url("", &[])).expect(Expect::Data).header("accept", "application/json").header(TOKEN, "Fetch");
        let answer = self.read(service, service.request(request, Some(version))).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(service.refusal(&answer));
        }
        let token = answer.header(TOKEN);
        self.token = (!token.is_empty() && !token.eq_ignore_ascii_case("required")).then(|| token.to_owned());
        self.is_asked = true;
        Ok(())
    }

    fn with_cookies(&self, request: Request) -> Request {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if cookies.is_empty() { request } else { request.header("cookie", &cookies.join("; ")) }
    }

    /// `Set-Cookie: SAP_SESSIONID_X=abc; path=/; secure`: the server is one, so path and domain are not looked at.
    fn remember(&mut self, answer: &Response) {
        for cookie in answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok()) {
            let mut parts = cookie.split(';');
            let Some((name, value)) = parts.next().and_then(|pair| pair.trim().split_once('=')) else { continue };
            let is_over = parts.any(|part| {
                let part = part.trim().to_ascii_lowercase();
                part == "max-age=0" || part.starts_with("max-age=-") || part.contains("01 jan 1970") || part.contains("01-jan-1970")
            });
            if is_over || value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}
