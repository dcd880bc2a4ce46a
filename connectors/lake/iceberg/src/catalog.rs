//! The requests of Iceberg's REST catalog: <https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml>.
//!
//! Invariant: whether a commit took effect is told apart from that it did not: 409 did not; 500, 502, 504, a lost answer say nothing.

use crate::given::{Given, OfPlace, texts};
use iceberg::spec::TableMetadata;
use millrace_contract::Failure;
use millrace_kit::http::{Client, Endpoint, HttpError, Method, Request, Response, StatusCode, Url};
use millrace_kit::parts::TargetError;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A table's name in a catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    pub namespace: Vec<String>,
    pub table: String,
}

impl Name {
    /// `plant.telemetry`, `company.plant.telemetry`. `None`: it has no namespace, or an empty part.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<String> = text.split('.').map(ToOwned::to_owned).collect();
        let table = parts.pop()?;
        let is_good = !parts.is_empty() && !table.is_empty() && parts.iter().all(|part| !part.is_empty());
        is_good.then_some(Self { namespace: parts, table })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace.join("."), self.table)
    }
}

/// One table's place in a catalog.
pub struct Catalog {
    client: Client,
    base: Url,
    prefix: String,
    pub name: Name,
    /// What it says of every table.
    properties: HashMap<String, String>,
    /// It is asked for credentials.
    delegates: bool,
    given: Mutex<Arc<Given>>,
    /// Held while they are renewed.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Loaded {
    metadata: TableMetadata,
    #[serde(default)]
    config: Value,
    #[serde(default, rename = "storage-credentials")]
    credentials: Value,
}

/// How a catalog is asked for credentials with a table.
const DELEGATION: (&str, &str) = ("X-Iceberg-Access-Delegation", "vended-credentials");

/// What became of a commit that has no good answer.
#[derive(Debug)]
pub enum Trouble {
    /// It did not take effect: somebody else was first.
    Conflict(String),
    /// It may have taken effect.
    Unknown(String),
    /// It did not take effect.
    Error(TargetError),
}

impl Catalog {
    /// Asks the catalog how it wants to be asked. `delegates`: it is asked for credentials of the table's store, too.
    pub async fn open(endpoint: &Endpoint, warehouse: Option<&str>, name: Name, delegates: bool) -> Result<Self, TargetError> {
        let client = endpoint.client().map_err(|failure| match failure {
            Failure::Blocked(text) => TargetError::Refused(text),
            other => TargetError::Away(other.to_string()),
        })?;
        let mut catalog = Self {
            client,
            base: endpoint.url.clone(),
            prefix: String::new(),
            name,
            properties: HashMap::new(),
            delegates,
            given: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        };
        let mut url = catalog.url(&["config"])?;
        if let Some(warehouse) = warehouse {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let config = catalog.ask(&Request::get(url), "ask the catalog for its settings").await?;
        let said = |key: &str| {
            let of = |part: &str| config[part][key].as_str().map(ToOwned::to_owned);
            of("overrides").or_else(|| of("defaults"))
        };
        if let Some(uri) = said("uri") {
            let moved = Url::parse(&uri).map_err(|error| TargetError::Refused(format!("the catalog names itself `{uri}`: {error}")))?;
            // The login is for the origin in the file, and goes nowhere else.
            if moved.origin() == catalog.base.origin() {
                catalog.base = moved;
            } else {
                return Err(TargetError::Refused(format!("the catalog wants to be asked at {moved}; write that as `uri`")));
            }
        }
        catalog.prefix = said("prefix").unwrap_or_default();
        for part in ["defaults", "overrides"] {
            catalog.properties.extend(texts(&config[part]));
        }
        Ok(catalog)
    }

    fn url(&self, path: &[&str]) -> Result<Url, TargetError> {
        let mut url = self.base.clone();
        let mut segments = url.path_segments_mut().map_err(|()| TargetError::Refused(format!("{} has no paths", self.base)))?;
        segments.pop_if_empty().push("v1").extend(path);
        drop(segments);
        Ok(url)
    }

    /// `more` is behind the namespaces.
    fn at(&self, more: &[&str]) -> Result<Url, TargetError> {
        // Parts of a namespace are apart by the unit separator.
        let namespace = self.name.namespace.join("\u{1f}");
        let mut path: Vec<&str> = self.prefix.split('/').filter(|part| !part.is_empty()).collect();
        path.push("namespaces");
        if !more.is_empty() {
            path.push(&namespace);
            path.extend(more.iter().filter(|part| !part.is_empty()));
        }
        self.url(&path)
    }

    async fn ask(&self, request: &Request, what: &str) -> Result<Value, TargetError> {
        let answer = self.client.send(request).await.map_err(|error| of_http(what, error))?;
        self.good(&answer, what)
    }

    fn good(&self, answer: &Response, what: &str) -> Result<Value, TargetError> {
        if !answer.status.is_success() {
            let said = message(answer);
            return Err(match answer.status {
                status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::CONFLICT => {
                    TargetError::Away(format!("cannot {what}: {} {said}", answer.status))
                }
                _ => of_http(what, self.client.refusal(answer)),
            });
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| TargetError::Refused(format!("cannot {what}: the answer is no JSON of a catalog: {error}")))
    }

    /// The newest metadata; `None`: there is no such table.
    pub async fn load(&self) -> Result<Option<TableMetadata>, TargetError> {
        let mut request = Request::get(self.at(&["tables", &self.name.table])?);
        if self.delegates {
            request = request.header(DELEGATION.0, DELEGATION.1);
        }
        let what = format!("load table {}", self.name);
        let answer = self.client.send(&request).await.map_err(|error| of_http(&what, error))?;
        if answer.status == StatusCode::NOT_FOUND {
            // A proxy's 404 is no answer of a catalog.
            return match serde_json::from_slice::<Value>(&answer.body) {
                Ok(body) if body["error"].is_object() => Ok(None),
                _ => Err(TargetError::Refused(format!("cannot {what}: {} is no catalog (404)", self.base))),
            };
        }
        let loaded = loaded(self.good(&answer, &what)?, &what)?;
        if self.delegates {
            let mut properties = self.properties.clone();
            properties.extend(texts(&loaded.config));
            let places: Vec<OfPlace> = loaded.credentials.as_array().into_iter().flatten().filter_map(OfPlace::read).collect();
            *self.given.lock() = Arc::new(Given::new(properties, places, loaded.metadata.location()));
        }
        Ok(Some(loaded.metadata))
    }

    /// What it gives for the table's store, as of when that was last loaded; nothing, where it is not asked.
    pub fn given(&self) -> Arc<Given> {
        self.given.lock().clone()
    }

    /// The same, asked for again where it is about to end.
    ///
    /// Errors: it ended, and the catalog can't be asked.
    pub async fn renewed(&self) -> Result<Arc<Given>, TargetError> {
        if !self.given().is_old() {
            return Ok(self.given());
        }
        let _one = self.renewing.lock().await;
        let before = self.given();
        if !before.is_old() {
            return Ok(before);
        }
        match self.load().await {
            Ok(Some(_)) => Ok(self.given()),
            Ok(None) => Err(TargetError::Refused(format!("table {} is gone from the catalog", self.name))),
            Err(error) if before.has_ended() => Err(error),
            Err(error) => {
                tracing::debug!(table = %self.name, "credentials are not renewed yet: {error}");
                Ok(before)
            }
        }
    }

    /// Makes the namespace where it is missing, then the table.
    pub async fn create(&self, table: &Value) -> Result<(), TargetError> {
        let mut levels = Vec::new();
        for level in &self.name.namespace {
            levels.push(level);
            let request = Request::new(Method::POST, self.at(&[])?)
                .body("application/json", json!({"namespace": levels, "properties": {}}).to_string());
            let answer = self.client.send(&request).await.map_err(|error| of_http("make the namespace", error))?;
            // Who may not make namespaces may have one.
            if !answer.status.is_success() && !matches!(answer.status, StatusCode::CONFLICT | StatusCode::FORBIDDEN) {
                self.good(&answer, &format!("make the namespace of {}", self.name))?;
            }
        }
        let request = Request::new(Method::POST, self.at(&["tables"])?).body("application/json", table.to_string());
        let what = format!("make table {}", self.name);
        let answer = self.client.send(&request).await.map_err(|error| of_http(&what, error))?;
        // Another runtime was quicker: what is there is held against what it must be.
        if answer.status == StatusCode::CONFLICT {
            return Ok(());
        }
        self.good(&answer, &what).map(|_| ())
    }

    /// Asks for a change that the catalog makes only if the requirements hold.
    pub async fn commit(&self, requirements: &Value, updates: &Value) -> Result<TableMetadata, Trouble> {
        let url = self.at(&["tables", &self.name.table]).map_err(Trouble::Error)?;
        let identifier = json!({"namespace": self.name.namespace, "name": self.name.table});
        let body = json!({"identifier": identifier, "requirements": requirements, "updates": updates});
        let request = Request::new(Method::POST, url).body("application/json", body.to_string());
        let what = format!("commit to table {}", self.name);
        let answer = match self.client.send(&request).await {
            Ok(answer) => answer,
            Err(error) if error.may_be_done() => return Err(Trouble::Unknown(format!("cannot {what}: {error}"))),
            Err(error) => return Err(Trouble::Error(of_http(&what, error))),
        };
        match answer.status {
            StatusCode::CONFLICT => Err(Trouble::Conflict(format!("cannot {what}: {}", message(&answer)))),
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Err(Trouble::Unknown(format!("cannot {what}: {status} {}", message(&answer))))
            }
            status if status.is_success() => {
                let read = self.good(&answer, &what).and_then(|body| loaded(body, &what)).map(|loaded| loaded.metadata);
                // It took effect; what it made of the table, the catalog says again.
                read.map_err(|error| Trouble::Unknown(error.to_string()))
            }
            _ => Err(Trouble::Error(self.good(&answer, &what).err().unwrap_or_else(|| TargetError::Away(what.clone())))),
        }
    }
}

fn loaded(body: Value, what: &str) -> Result<Loaded, TargetError> {
    serde_json::from_value(body).map_err(|error| TargetError::Refused(format!("cannot {what}: its metadata cannot be read: {error}")))
}

/// What a catalog says of its refusal, in one line.
fn message(answer: &Response) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = body["error"]["message"].as_str().map_or_else(|| answer.text().into_owned(), ToOwned::to_owned);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

fn of_http(what: &str, error: HttpError) -> TargetError {
    let text = format!("cannot {what}: {error}");
    match Failure::from(error) {
        Failure::Blocked(_) => TargetError::Refused(text),
        _ => TargetError::Away(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_namespace() {
        let name = Name::parse("company.plant.telemetry").unwrap();
        assert_eq!(
            (name.namespace.join("/"), name.table.as_str(), name.to_string().as_str()),
            ("company/plant".into(), "telemetry", "company.plant.telemetry")
        );
        assert_eq!([Name::parse("telemetry"), Name::parse(".telemetry"), Name::parse("plant.")], [None, None, None]);
    }
}
