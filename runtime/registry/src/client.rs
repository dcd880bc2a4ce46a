//! The client: registers schemas and looks them up, over Confluent's REST interface.
//!
//! ```text
//! register ── known in this run ──────────────────────────────────────────────> id     no request
//!     └── POST /subjects/S/versions ── answered ── remembered, on disk too ───> id
//!                 └── away ── remembered from an earlier run ─────────────────> id     else Away: try again
//! schema ──── known ── else GET /schemas/ids/ID, with everything it refers to
//! ```
//!
//! Invariants: an error is never remembered; what was answered once is not asked again in this run; what was registered once is still
//! there after a restart while the registry is away, unless another registry is configured. The number of schemas kept in memory is
//! bounded. Nothing here waits or retries by itself: [`RegistryError::Away`] says that it pays to call again.

use crate::error::RegistryError;
use crate::memory::Memory;
use crate::schema::{Kind, Reference, Resolved, Schema, SchemaId};
use millrace_config::Secret;
use millrace_schemas::contract::UnknownKind;
use millrace_tls::{ClientTls, TlsError};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What a registry may answer with, in bytes; more is not read.
const ANSWER: usize = 32 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Schemas kept for lookups by id.
const KEPT: usize = 10_000;
/// Schemas one schema may refer to, over all steps.
const REFERENCES: usize = 1_000;

/// Where the registry is, and how to log in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http(s)://host:port`, with a path where the interface lies below one; several: of one registry, any of which may be away.
    pub urls: Vec<String>,
    pub login: Option<RegistryLogin>,
    pub tls: ClientTls,
    /// Remembers ids over restarts; `None`: only in memory.
    pub memory: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Settings {
    /// One or several addresses, separated by commas; no login.
    pub fn new(urls: &str) -> Self {
        let urls = urls.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).filter(|url| !url.is_empty()).collect();
        Self { urls, login: None, tls: ClientTls::default(), memory: None, timeout: Duration::from_secs(10) }
    }
}

/// How the client introduces itself.
#[derive(Clone, Debug)]
pub enum RegistryLogin {
    Basic { user: String, password: Secret },
    Token(Secret),
}

/// A registry's client; one per runtime, shared.
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    login: Option<RegistryLogin>,
    /// Index of the address that answered last.
    current: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What this run was told.
    registered: HashMap<(String, Schema), SchemaId>,
    /// What earlier runs were told.
    memory: Memory,
    by_id: HashMap<SchemaId, Arc<Resolved>>,
}

/// What a registry says about a schema that is not registered yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub compatible: bool,
    /// What would break, in the registry's words.
    pub messages: Vec<String>,
}

/// A version of a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub subject: String,
    pub version: i32,
    pub id: SchemaId,
    pub schema: Schema,
}

impl Client {
    /// Makes a client; sends nothing.
    ///
    /// Errors: `Refused`, where a certificate's file is wrong or no address is given.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let Settings { urls, login, tls, memory, timeout } = settings;
        if urls.is_empty() {
            return Err(RegistryError::Refused("no address of a schema registry is given".into()));
        }
        let config = if urls.iter().any(|url| url.starts_with("https:")) {
            (*tls.client_config().map_err(|error| RegistryError::Refused(error.to_string()))?).clone()
        } else {
            without_authorities()?
        };
        let builder =
            reqwest::Client::builder().timeout(timeout).connect_timeout(timeout.min(CONNECT)).no_proxy().tls_backend_preconfigured(config);
        let http = builder.build().map_err(|error| RegistryError::Refused(format!("cannot make an HTTP client: {error}")))?;
        let state = State { memory: memory.map(|file| Memory::open(file, &urls)).unwrap_or_default(), ..State::default() };
        Ok(Self { http, urls, login, current: AtomicUsize::new(0), state: Mutex::new(state) })
    }

    /// The addresses, for messages.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The id of a schema under a subject: registered if it is not. In this run it is asked for once.
    ///
    /// Errors: `Away` only if it was never registered by this runtime before.
    pub async fn register(&self, subject: &str, schema: &Schema) -> Result<SchemaId, RegistryError> {
        let entry = (subject.to_owned(), schema.clone());
        if let Some(id) = self.state.lock().registered.get(&entry) {
            return Ok(*id);
        }
        #[derive(Deserialize)]
        struct Answer {
            id: SchemaId,
        }
        let path = format!("/subjects/{}/versions", escape(subject));
        match self.call::<Answer>(Method::POST, &path, Some(&Body::of(schema))).await {
            Ok(Answer { id }) => {
                let mut state = self.state.lock();
                state.memory.remember(subject, schema, id);
                state.registered.insert(entry, id);
                Ok(id)
            }
            Err(RegistryError::Away(why)) => match self.state.lock().memory.recall(subject, schema) {
                Some(id) => {
                    tracing::debug!(subject, %id, "the schema registry is away, its last answer is used: {why}");
                    Ok(id)
                }
                None => Err(RegistryError::Away(why)),
            },
            Err(error) => Err(refused(error, subject)),
        }
    }

    /// The schema of an id with everything it refers to; asked for once.
    pub async fn schema(&self, id: SchemaId) -> Result<Arc<Resolved>, RegistryError> {
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        let body: Body = self.call(Method::GET, &format!("/schemas/ids/{id}"), None).await?;
        let schema = body.into_schema()?;
        let references = self.references(&schema).await?;
        let resolved = Arc::new(Resolved { schema, references });
        let mut state = self.state.lock();
        if state.by_id.len() >= KEPT {
            // Which go does not matter: each costs one request to come back.
            let some: Vec<SchemaId> = state.by_id.keys().take(KEPT / 4).copied().collect();
            for id in some {
                state.by_id.remove(&id);
            }
        }
        state.by_id.insert(id, resolved.clone());
        Ok(resolved)
    }

    /// As [`Client::schema`], without asking anybody.
    pub fn known(&self, id: SchemaId) -> Option<Arc<Resolved>> {
        self.state.lock().by_id.get(&id).cloned()
    }

    /// What a schema refers to, over all steps; what others need first.
    pub async fn references(&self, schema: &Schema) -> Result<Vec<(String, Schema)>, RegistryError> {
        enum Step {
            Open(Reference),
            Close(String, Schema),
        }
        let mut found: Vec<(String, Schema)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut steps: Vec<Step> = schema.references.iter().rev().cloned().map(Step::Open).collect();
        while let Some(step) = steps.pop() {
            match step {
                Step::Close(name, schema) => found.push((name, schema)),
                Step::Open(reference) => {
                    if !seen.insert(reference.name.clone()) {
                        continue;
                    }
                    if seen.len() > REFERENCES {
                        return Err(RegistryError::Refused(format!("a schema refers to more than {REFERENCES} others")));
                    }
                    let path = format!("/subjects/{}/versions/{}?deleted=true", escape(&reference.subject), reference.version);
                    let version: VersionBody = self.call(Method::GET, &path, None).await?;
                    let schema = version.into_version()?.schema;
                    let below: Vec<Step> = schema.references.iter().rev().cloned().map(Step::Open).collect();
                    steps.push(Step::Close(reference.name, schema));
                    steps.extend(below);
                }
            }
        }
        Ok(found)
    }

    /// The names of all subjects, in order.
    pub async fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        let mut subjects: Vec<String> = self.call(Method::GET, "/subjects", None).await?;
        subjects.sort_unstable();
        Ok(subjects)
    }

    /// The numbers of a subject's versions.
    pub async fn versions(&self, subject: &str) -> Result<Vec<i32>, RegistryError> {
        self.call(Method::GET, &format!("/subjects/{}/versions", escape(subject)), None).await
    }

    /// One version of a subject; `None`: its latest.
    pub async fn version(&self, subject: &str, version: Option<i32>) -> Result<Version, RegistryError> {
        let version = version.map_or_else(|| "latest".to_owned(), |number| number.to_string());
        let body: VersionBody = self.call(Method::GET, &format!("/subjects/{}/versions/{version}", escape(subject)), None).await?;
        body.into_version()
    }

    /// The version under which exactly this schema is registered; `NotFound` where it is not.
    pub async fn lookup(&self, subject: &str, schema: &Schema) -> Result<Version, RegistryError> {
        let body: VersionBody = self.call(Method::POST, &format!("/subjects/{}", escape(subject)), Some(&Body::of(schema))).await?;
        body.into_version()
    }

    /// Whether a schema could be registered, and what it would break. A subject without versions takes any.
    pub async fn check(&self, subject: &str, schema: &Schema) -> Result<Verdict, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
            #[serde(default)]
            messages: Vec<String>,
        }
        let path = format!("/compatibility/subjects/{}/versions?verbose=true", escape(subject));
        match self.call::<Answer>(Method::POST, &path, Some(&Body::of(schema))).await {
            Ok(Answer { is_compatible, messages }) => Ok(Verdict { compatible: is_compatible, messages }),
            Err(RegistryError::NotFound(_)) => Ok(Verdict { compatible: true, messages: Vec::new() }),
            Err(error) => Err(refused(error, subject)),
        }
    }

    /// What the registry demands of new versions of a subject: `BACKWARD`, `FULL_TRANSITIVE`, ...
    pub async fn compatibility(&self, subject: &str) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "compatibilityLevel")]
            level: String,
        }
        let path = format!("/config/{}?defaultToGlobal=true", escape(subject));
        Ok(self.call::<Answer>(Method::GET, &path, None).await?.level)
    }

    /// One request at the address that answered last, then at the others.
    async fn call<T: for<'a> Deserialize<'a>>(&self, method: Method, path: &str, body: Option<&Body>) -> Result<T, RegistryError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..self.urls.len() {
            let index = (first + step) % self.urls.len();
            match self.call_at(&self.urls[index], &method, path, body).await {
                Err(RegistryError::Away(why)) => last = Some(why),
                answered => {
                    self.current.store(index, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(RegistryError::Away(last.unwrap_or_default()))
    }

    async fn call_at<T: for<'a> Deserialize<'a>>(
        &self,
        url: &str,
        method: &Method,
        path: &str,
        body: Option<&Body>,
    ) -> Result<T, RegistryError> {
        let mut request = self
            .http
            .request(method.clone(), format!("{url}{path}"))
            .header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        request = match &self.login {
            Some(RegistryLogin::Basic { user, password }) => request.basic_auth(user, Some(password.expose())),
            Some(RegistryLogin::Token(token)) => request.bearer_auth(token.expose()),
            None => request,
        };
        if let Some(body) = body {
            let text = serde_json::to_vec(body).map_err(|error| RegistryError::Refused(error.to_string()))?;
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(text);
        }
        let mut answer = request.send().await.map_err(|error| from_http(url, &error))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| from_http(url, &error))? {
            if bytes.len() + piece.len() > ANSWER {
                return Err(RegistryError::Refused(format!("{url}{path}: the answer is larger than {} MiB", ANSWER >> 20)));
            }
            bytes.extend_from_slice(&piece);
        }
        if !status.is_success() {
            return Err(from_status(url, path, status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            RegistryError::Refused(format!("{url}{path} does not answer as a schema registry: {error}; check the address"))
        })
    }
}

/// The HTTP client wants a configuration even where nothing is encrypted; this one trusts nobody and reads no file.
fn without_authorities() -> Result<rustls::ClientConfig, RegistryError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| RegistryError::Refused(format!("cannot set up tls: {error}")))?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// The body of a schema, as asked and as answered.
#[derive(Serialize, Deserialize)]
struct Body {
    schema: String,
    #[serde(rename = "schemaType", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    references: Option<Vec<Reference>>,
}

impl Body {
    fn of(schema: &Schema) -> Self {
        Self {
            schema: schema.text.clone(),
            kind: (schema.kind != Kind::Avro).then(|| schema.kind.as_str().to_owned()),
            references: (!schema.references.is_empty()).then(|| schema.references.clone()),
        }
    }

    fn into_schema(self) -> Result<Schema, RegistryError> {
        let kind =
            self.kind.as_deref().unwrap_or("AVRO").parse().map_err(|error: UnknownKind| RegistryError::Refused(error.to_string()))?;
        Ok(Schema { kind, text: self.schema, references: self.references.unwrap_or_default() })
    }
}

#[derive(Deserialize)]
struct VersionBody {
    subject: String,
    version: i32,
    id: SchemaId,
    #[serde(flatten)]
    body: Body,
}

impl VersionBody {
    fn into_version(self) -> Result<Version, RegistryError> {
        Ok(Version { subject: self.subject, version: self.version, id: self.id, schema: self.body.into_schema()? })
    }
}

fn refused(error: RegistryError, subject: &str) -> RegistryError {
    match error {
        RegistryError::Refused(why) | RegistryError::NotFound(why) => RegistryError::Refused(format!("subject {subject}: {why}")),
        away => away,
    }
}

fn from_http(url: &str, error: &reqwest::Error) -> RegistryError {
    use std::error::Error;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    let mut words = error.to_string();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && let TlsError::Certificate(why) = millrace_tls::failure(url, io)
        {
            return RegistryError::Refused(why);
        }
        words = inner.to_string();
        cause = inner.source();
    }
    if error.is_builder() {
        return RegistryError::Refused(format!("`{url}` is no address of a schema registry: {words}"));
    }
    let words = if error.is_timeout() { "no answer in time".to_owned() } else { words };
    RegistryError::Away(format!("cannot reach the schema registry at {url}: {words}"))
}

fn from_status(url: &str, path: &str, status: StatusCode, bytes: &[u8]) -> RegistryError {
    #[derive(Deserialize)]
    struct Words {
        #[serde(default)]
        error_code: i64,
        message: String,
    }
    let said = serde_json::from_slice::<Words>(bytes);
    let words = match &said {
        Ok(words) => format!("{} ({})", words.message.trim(), words.error_code),
        Err(_) => String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned(),
    };
    match status.as_u16() {
        404 if said.is_ok() => RegistryError::NotFound(words),
        404 => RegistryError::Refused(format!("{url}{path}: not found; does the address lack a path, such as /apis/ccompat/v7?")),
        401 => RegistryError::Refused(format!("the schema registry at {url} wants another login: {words}")),
        403 => RegistryError::Refused(format!("the schema registry at {url} does not allow it: {words}")),
        408 | 429 | 500..=599 => RegistryError::Away(format!("the schema registry at {url} answers {status}: {words}")),
        _ => RegistryError::Refused(format!("the schema registry refuses it: {words}")),
    }
}

/// A path's segment, percent-encoded.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
