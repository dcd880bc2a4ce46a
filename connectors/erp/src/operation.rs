//! One record as one request, and what its answer means.

use crate::batch;
use crate::literal;
use crate::metadata::{Metadata, Version};
use crate::outgoing;
use crate::page;
use crate::pending::{Memory, Pending, Verdict};
use crate::posting::{OnConflict, Operation, Posting};
use crate::refusal;
use crate::service::{Service, escape};
use crate::session::Session;
use crate::shape::{self, Record};
use crate::values;
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_kit::http::{HttpError, Method, Request, Response, StatusCode};
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// No verdict.
#[derive(Debug)]
pub struct Failed {
    pub failure: Failure,
    pub may_be_done: bool,
}

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub id: String,
    method: Method,
    /// Below the root.
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The literal of the value to look up by, and the value as text.
    pub looked_up: String,
    pub lookup_value: String,
}

impl Prepared {
    pub fn for_batch(&self) -> batch::Operation {
        let mut path = self.path.clone();
        for (n, (name, value)) in self.query.iter().enumerate() {
            path += &format!("{}{name}={}", if n == 0 { "?" } else { "&" }, escape(value));
        }
        batch::Operation { method: self.method.to_string(), path, headers: self.headers.clone(), body: self.body.clone() }
    }
}

/// What records become.
pub struct Operations {
    posting: Arc<Posting>,
    pub version: Version,
    /// The entity set's type.
    entity: Option<Record>,
    /// What a record is: an entity, or an action's parameters.
    record: Record,
    /// The action's name in a URL.
    action: Option<String>,
    /// It is called on the entity with the record's key.
    is_bound: bool,
    /// V2: parameters stand in the URL, and the method is this.
    in_url: Option<Method>,
}

/// An update that found another version each time gives up.
const CONFLICTS: u32 = 5;
/// A record that makes the ERP fail is refused after this many times.
const FAILURES: u32 = 5;
/// SAP Gateway: the request was carried out before, so long ago that its answer is gone.
const OUTDATED: &str = "/IWBEP/CM_COS/005";

impl Operations {
    /// Errors: the service has not what is to be posted to, with what it has.
    pub fn new(posting: Arc<Posting>, metadata: Metadata) -> Result<Self, Reason> {
        let version = metadata.version;
        let entity = match &posting.set {
            Some(set) => {
                let Some(type_name) = metadata.type_of_set(set) else {
                    let names: Vec<_> = metadata.sets.iter().map(|(name, _)| name.as_str()).take(30).collect();
                    return Err(format!("the service has no entity set {set}; it has {}", names.join(", ")).into());
                };
                // What is created with its parts has them under navigation properties.
                let structure = metadata.structure(type_name).unwrap_or_default();
                let parts: Vec<String> = structure.properties.iter().filter(|p| p.is_navigation).map(|p| p.name.clone()).collect();
                Some(shape::of(&metadata, type_name, &[], &parts)?)
            }
            None => None,
        };
        let mut in_url = None;
        let mut name_in_url = None;
        let mut is_bound = false;
        let record = match &posting.action {
            Some(name) => {
                let found = metadata
                    .actions
                    .iter()
                    .find(|(full, action)| *full == name || entity.is_some() && action.is_bound && full.rsplit('.').next() == Some(name));
                let Some((full, action)) = found else {
                    let mut names: Vec<_> = metadata.actions.keys().map(String::as_str).collect();
                    names.sort_unstable();
                    return Err(format!("the service has no action {name}; it has {}", names.join(", ")).into());
                };
                name_in_url = Some(full.clone());
                is_bound = action.is_bound;
                // The first parameter of a bound action is what it is bound to.
                let parameters = &action.parameters[usize::from(action.is_bound).min(action.parameters.len())..];
                in_url = action.method.as_ref().map(|method| if method.eq_ignore_ascii_case("POST") { Method::POST } else { Method::GET });
                shape::of_parameters(&metadata, full, parameters)
            }
            None => entity.clone().unwrap_or_default(),
        };
        if let Some(lookup) = &posting.lookup
            && entity.as_ref().is_none_or(|entity| entity.index(lookup).is_none())
        {
            return Err(format!("{} has no property `{lookup}` to look up by", posting.set.as_deref().unwrap_or_default()).into());
        }
        Ok(Self { posting, version, entity, record, action: name_in_url, is_bound, in_url })
    }

    /// Errors: why the record can never be posted.
    pub fn prepare(&self, pending: &Pending, text: &[u8]) -> Result<Prepared, Reason> {
        let document: Value = serde_json::from_slice(text).map_err(|error| format!("the record is not JSON: {error}"))?;
        if !document.is_object() {
            return Err("the record is not a JSON object".into());
        }
        let set = self.posting.set.as_deref().unwrap_or_default();
        let keys: Vec<&str> = match &self.entity {
            Some(entity) => entity.keys.iter().map(|index| entity.fields[*index].name.as_str()).collect(),
            None => Vec::new(),
        };
        let key = || -> Result<String, Reason> {
            let entity = self.entity.as_ref().ok_or("there is no entity set")?;
            literal::key(&document, entity, self.version)
                .ok_or_else(|| format!("the record lacks a part of the key: {}", keys.join(", ")).into())
        };
        let is_update = self.posting.operation == Operation::Update;
        let path = match &self.action {
            Some(action) if self.is_bound => format!("{set}{}/{action}", key()?),
            Some(action) => action.clone(),
            None if is_update => format!("{set}{}", key()?),
            None => set.to_owned(),
        };
        let without: &[&str] = if is_update || self.is_bound { &keys } else { &[] };
        let mut query = Vec::new();
        let mut body = outgoing::body(text, &self.record, self.version, without).map_err(|wrong| wrong.to_string())?;
        if self.in_url.is_some() {
            for field in &self.record.fields {
                if let Some(value) = document.get(&field.name).filter(|value| !value.is_null()) {
                    let value =
                        literal::of(value, &field.shape, self.version).ok_or_else(|| format!("`{}` cannot stand in a URL", field.name))?;
                    query.push((field.name.clone(), value));
                }
            }
            body.clear();
        }
        let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned()), ("Accept".into(), "application/json".into())];
        if !is_update {
            headers.extend(repeatability(&pending.id, pending.timestamp_ms, self.version));
        }
        let (mut looked_up, mut lookup_value) = (String::new(), String::new());
        if let (Some(lookup), Some(entity)) = (&self.posting.lookup, &self.entity) {
            let value = document
                .get(lookup)
                .filter(|value| !value.is_null())
                .ok_or_else(|| format!("the record has no `{lookup}` to look up by"))?;
            let shape = &entity.fields[entity.index(lookup).unwrap_or_default()].shape;
            looked_up = literal::of(value, shape, self.version).ok_or_else(|| format!("`{lookup}` cannot be looked up by"))?;
            lookup_value = plain(value);
        }
        let method = self.in_url.clone().unwrap_or(Method::POST);
        Ok(Prepared { id: pending.id.clone(), method, path, query, headers, body, looked_up, lookup_value })
    }

    /// Sends one request, and says what became of it.
    pub async fn run(&self, service: &Service, session: &mut Session, one: &Prepared, memory: &Memory) -> Result<Verdict, Failed> {
        let failed = |error: HttpError| Failed { may_be_done: error.may_be_done(), failure: again(&error, self.posting.retry_after) };
        for conflicts in 1.. {
            let mut request = self.request(service, one);
            if self.posting.operation == Operation::Update {
                match self.etag(service, session, one).await.map_err(failed)? {
                    Ok(etag) => request = request.header("if-match", &etag),
                    Err(verdict) => return Ok(verdict),
                }
                match self.version {
                    Version::V4 => request.method = Method::PATCH,
                    Version::V2 => request = request.header("x-http-method", "MERGE"),
                }
            }
            let answer = session.write(service, &request, self.version).await.map_err(failed)?;
            if answer.status == StatusCode::PRECONDITION_FAILED
                && self.posting.on_conflict == OnConflict::Overwrite
                && conflicts < CONFLICTS
            {
                continue;
            }
            if answer.status == StatusCode::UNAUTHORIZED || answer.status == StatusCode::FORBIDDEN {
                return Err(Failed { failure: service.refusal(&answer).into(), may_be_done: false });
            }
            let header = |name: &str| answer.header(name).to_owned();
            return Ok(self.judge(one, answer.status.as_u16(), &header, &answer.body, memory));
        }
        unreachable!("conflicts are counted")
    }

    fn request(&self, service: &Service, one: &Prepared) -> Request {
        let query: Vec<(&str, &str)> = one.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut request = service.request(Request::new(one.method.clone(), service.url(&one.path, &query)), Some(self.version));
        for (name, value) in &one.headers {
            request = request.header(name, value);
        }
        if one.body.is_empty() { request } else { request.body("application/json", one.body.clone()) }
    }

    /// The entity's version, as `If-Match` wants it: verbatim; `*` where it has none.
    async fn etag(&self, service: &Service, session: &mut Session, one: &Prepared) -> Result<Result<String, Verdict>, HttpError> {
        let request = service.request(Request::get(service.url(&one.path, &[])), Some(self.version));
        let answer = session.read(service, request).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Err(Verdict::Refused { status: 404, text: format!("{} does not exist{}", one.path, words(&answer)) }));
        }
        if !answer.status.is_success() {
            return Err(service.refusal(&answer));
        }
        let in_header = answer.header("etag");
        if !in_header.is_empty() {
            return Ok(Ok(in_header.to_owned()));
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let etag = body["@odata.etag"].as_str().or_else(|| body["d"]["__metadata"]["etag"].as_str());
        Ok(Ok(etag.unwrap_or("*").to_owned()))
    }

    /// The values of a property that are there.
    pub async fn look_up(
        &self,
        service: &Service,
        session: &mut Session,
        property: &str,
        filter: &str,
    ) -> Result<HashSet<String>, Failure> {
        let set = self.posting.set.as_deref().unwrap_or_default();
        let mut query = vec![("$filter", filter), ("$select", property), ("$top", "1000")];
        if self.version == Version::V2 {
            query.push(("$format", "json"));
        }
        let request = service.request(Request::get(service.url(set, &query)), Some(self.version));
        let answer = session.read(service, request).await?;
        if !answer.status.is_success() {
            return Err(service.refusal(&answer).into());
        }
        let bad = |what: String| Failure::Reconnect(format!("cannot look up by {property} in {set}: {what}"));
        let text = page::text(answer.body).map_err(|error| bad(error.to_string()))?;
        let page = page::parse(&text, self.version).map_err(|error| bad(error.to_string()))?;
        let mut found = HashSet::new();
        for row in page.rows(&text) {
            let row: Value = serde_json::from_str(row).map_err(|error| bad(error.to_string()))?;
            found.insert(plain(&row[property]));
        }
        Ok(found)
    }

    /// What an answer means.
    pub fn judge(&self, one: &Prepared, status: u16, header: &dyn Fn(&str) -> String, body: &[u8], memory: &Memory) -> Verdict {
        let is_kept = ["repeatabilityresult", "repeatability-result"].iter().any(|name| header(name).eq_ignore_ascii_case("accepted"));
        if is_kept {
            memory.it_keeps_ids();
        }
        if (200..300).contains(&status) {
            let location = [header("location"), header("odata-entityid")].into_iter().find(|at| !at.is_empty()).unwrap_or_default();
            return Verdict::Done { status, location, already: false };
        }
        let refusal = refusal::of(body);
        if refusal.as_ref().is_some_and(|refusal| refusal.code.contains(OUTDATED)) {
            return Verdict::Done { status, location: String::new(), already: true };
        }
        let text = match &refusal {
            Some(refusal) => refusal.to_string(),
            None => String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(500).collect(),
        };
        let said = format!("{} {}: {text}", one.method, one.path);
        let lower = text.to_lowercase();
        let is_later = status == 423 || self.posting.later.iter().any(|word| lower.contains(word.as_str()));
        if is_later && status < 500 {
            return Verdict::Later(Failure::RetryAfter(self.posting.retry_after, said));
        }
        let text = format!("{status}: {said}");
        match status {
            // An error of the ERP's own, in its own words: the record may be what it cannot bear.
            500.. if refusal.is_some() && memory.fails(&one.id) >= FAILURES => Verdict::Refused { status, text },
            408 | 429 | 500.. => Verdict::Later(Failure::Reconnect(text)),
            // Nothing that another record would do better.
            401 | 403 => Verdict::Later(Failure::Blocked(text)),
            404 | 405 if refusal.is_none() => Verdict::Later(Failure::Blocked(text)),
            _ => Verdict::Refused { status, text },
        }
    }
}

/// What comes after a failed request: where it may have been carried out, the ERP gets time to finish before it is looked up.
pub fn again(error: &HttpError, settle: Duration) -> Failure {
    match Failure::from(error.clone()) {
        Failure::Reconnect(text) if error.may_be_done() => Failure::RetryAfter(settle, text),
        failure => failure,
    }
}

fn words(answer: &Response) -> String {
    refusal::of(&answer.body).map(|refusal| format!(": {refusal}")).unwrap_or_default()
}

/// A value as text, whichever way the service writes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => match values::number(text) {
            Some(number) if !text.starts_with('0') => number.into_owned(),
            _ => text.clone(),
        },
        other => other.to_string(),
    }
}

/// SAP's headers in V2; those of OASIS Repeatable Requests 1.0 in V4. The time is the record's: the same in each try.
fn repeatability(id: &str, timestamp_ms: i64, version: Version) -> Vec<(String, String)> {
    let at = jiff::Timestamp::from_millisecond(timestamp_ms).unwrap_or_default();
    match version {
        Version::V2 => {
            let created = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S").to_string();
            vec![("RequestID".into(), id.to_uppercase()), ("RepeatabilityCreation".into(), created)]
        }
        Version::V4 => {
            let sent = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let uuid = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
            vec![("Repeatability-Request-ID".into(), uuid), ("Repeatability-First-Sent".into(), sent)]
        }
    }
}
