//! A REST endpoint as a source: asked on an interval, page by page, from the watermark of the last whole reading.
//!
//! ```text
//! GET /orders?since={watermark} ─▶ records at a pointer ─▶ kit::records ─▶ batch with the position; next page, if the answer names one
//! ```
//!
//! An answer that is not what was declared (no list at the pointer, a page of HTML) is an error of its request, never "no data". A request that fails is
//! told in the status of its part and asked again at its next turn; the others go on.

mod config;
mod position;

pub use config::PollConfig;

use async_trait::async_trait;
use config::{Asked, Settings};
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_kit::groups::Beside;
use millrace_kit::http::{Client, EndpointKeys, HttpError, Request, Url};
use millrace_kit::records::polling::{self, Polling, Reads, Trouble};
use millrace_kit::records::{Records, reject};
use millrace_schemas::scan::{Next, Scanner};
use millrace_schemas::{Origin, Span};
use position::Position;
use std::collections::HashSet;
use std::sync::Arc;

/// `type: poll`.
#[derive(Debug)]
pub struct PollSource;

impl Plugin for PollSource {
    const TYPE: &'static str = "poll";
    const ROLE: Role = Role::Source;
    type Config = Beside<EndpointKeys, PollConfig>;

    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        config.own.compile(&config.shared, context, problems).map(|settings| Box::new(CompiledPoll(Arc::new(settings))) as _)
    }
}

struct CompiledPoll(Arc<Settings>);

impl Compiled for CompiledPoll {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(PollSession { settings: self.0.clone(), records: Records::new(Origin::Poll, self.0.max_tags), client: None }))
    }

    fn guarantee(&self) -> Guarantee {
        match self.0.requests.iter().find(|polling| polling.own.watermark.is_none()) {
            None => Guarantee::AtLeastOnce(
                "the watermark moves with the records of a whole reading; a reading that was cut begins again, and passes over what it knows by its content".into(),
            ),
            Some(polling) => polling.without_watermark(),
        }
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        let line = |polling: &Polling<Asked>| {
            let pages = if polling.own.next.is_some() { ", page by page," } else { "" };
            polling.line(&format!("GET {}{pages}", polling.name))
        };
        Plan { endpoint: self.0.endpoint.url.to_string(), lines: self.0.requests.iter().map(line).collect(), rate: None }
    }
}

struct PollSession {
    settings: Arc<Settings>,
    records: Records,
    /// It counts what is wrong in a row, and keeps its token: made anew only after a person was needed, for certificates are read then.
    client: Option<Client>,
}

#[async_trait]
impl Source for PollSession {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let settings = self.settings.clone();
        let client = match self.client.take() {
            Some(client) => client,
            None => settings.endpoint.client()?,
        };
        let mut reader = Reader { settings: &settings, records: &mut self.records, client: &client };
        let ended = polling::run(&settings.requests, &mut reader, &io).await;
        if !matches!(ended, Err(Failure::Blocked(_))) {
            self.client = Some(client);
        }
        ended
    }
}

struct Reader<'a> {
    settings: &'a Settings,
    records: &'a mut Records,
    client: &'a Client,
}

impl Reads for Reader<'_> {
    async fn read(&mut self, number: usize, io: &SourceIo) -> Result<Status, Trouble> {
        self.pages(&self.settings.requests[number], io).await.map(|()| Status::Running)
    }
}

fn trouble(error: HttpError) -> Trouble {
    match error {
        // The server has an answer to this request, and it is no: the others may have better luck.
        HttpError::Status { .. } | HttpError::TooLarge { .. } => Trouble::This(error.to_string()),
        error => Trouble::Session(error.into()),
    }
}

impl Reader<'_> {
    /// Reads all pages.
    async fn pages(&mut self, polling: &Polling<Asked>, io: &SourceIo) -> Result<(), Trouble> {
        let asked = &polling.own;
        let mut position = Position::read(io.resume(&polling.name));
        let before = position.clone();
        position.begin();
        let mut url = first(&self.settings.endpoint.url, asked, position.watermark().or(asked.start.as_deref()))?;
        let mut visited = HashSet::new();
        loop {
            if !visited.insert(url.clone()) {
                return Err(Trouble::This(format!("the page {url} names one as its next that was read already")));
            }
            if visited.len() > asked.pages as usize {
                return Err(Trouble::This(format!("more than {} pages; raise `pages`, or ask for less", asked.pages)));
            }
            let answer = self.client.fetch(&Request::get(url.clone())).await.map_err(trouble)?;
            match self.page(polling, &answer.body, &mut position, io).await? {
                None => break,
                Some(next) => {
                    url = url.join(&next).map_err(|error| Trouble::This(format!("the next page `{next}` is no address: {error}")))?
                }
            }
        }
        position.end();
        if asked.watermark.is_some() && position != before {
            io.send(io.batch().await, &[(&polling.name, &position.bytes())]).await;
        }
        Ok(())
    }

    /// Takes the records of one page; returns the address of the next.
    async fn page(
        &mut self,
        polling: &Polling<Asked>,
        body: &[u8],
        position: &mut Position,
        io: &SourceIo,
    ) -> Result<Option<String>, Trouble> {
        let asked = &polling.own;
        let not_json = |error: millrace_schemas::scan::ScanError| {
            Trouble::This(format!("`{}` answered what cannot be read as JSON: {error}", polling.name))
        };
        let list = asked.records.find(body).map_err(not_json)?;
        let Some(list) = list else {
            let beginning: String = String::from_utf8_lossy(body).chars().take(100).collect();
            return Err(Trouble::This(format!("`{}` has no records: nothing is at {} in `{beginning}`", polling.name, asked.records)));
        };
        let next = match &asked.next {
            None => None,
            Some(next) => match next.find(body).map_err(not_json)? {
                None | Some("null" | "\"\"") => None,
                Some(text) => {
                    Some(serde_json::from_str(text).map_err(|_| Trouble::This(format!("the next page at {next} is no text: {text}")))?)
                }
            },
        };
        let mut batch = io.batch().await;
        let mut take = |record: &str| -> Result<(), Trouble> {
            if let Some(pointer) = &asked.watermark {
                let found = pointer.find(record.as_bytes()).map_err(not_json)?;
                let text = match found {
                    None | Some("null") => {
                        if position.unmarked(record.as_bytes()) {
                            let why = format!("the watermark is missing: nothing is at {pointer}");
                            reject(&polling.making, record.as_bytes(), Span::EMPTY, why, &mut batch);
                        }
                        return Ok(());
                    }
                    Some(text) => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
                };
                if !position.record(record.as_bytes(), &text) {
                    return Ok(());
                }
            }
            if let Err(reason) = self.records.take(&polling.making, record.as_bytes(), &[], Span::EMPTY, &mut batch, io) {
                reject(&polling.making, record.as_bytes(), Span::EMPTY, reason.into(), &mut batch);
            }
            Ok(())
        };
        let mut scanner = Scanner::new(list.as_bytes()).map_err(not_json)?;
        match scanner.peek().map_err(not_json)? {
            Next::Array if !polling.making.has_lists() => {
                scanner.open().map_err(not_json)?;
                let mut first = true;
                while scanner.next_item(first).map_err(not_json)? {
                    first = false;
                    take(scanner.skip().map_err(not_json)?)?;
                }
            }
            Next::Array | Next::Object => take(list)?,
            _ => return Err(Trouble::This(format!("`{}` has `{list}` at {}, not a list", polling.name, asked.records))),
        }
        if !batch.is_empty() {
            let bytes = position.bytes();
            let moved: &[(&str, &[u8])] = if asked.watermark.is_some() { &[(&polling.name, &bytes)] } else { &[] };
            io.send(batch, moved).await;
        }
        Ok(next)
    }
}

/// Stands in an address for a watermark that nothing says yet; no address has it.
const NOTHING: u8 = 0;

/// The address of the first page: the endpoint's path, then the request's, with the watermark encoded. Without one, the parameter that would have it is
/// left out.
fn first(endpoint: &Url, asked: &Asked, watermark: Option<&str>) -> Result<Url, Trouble> {
    let mut text = endpoint.as_str().trim_end_matches('/').as_bytes().to_vec();
    let _ = asked.get.fill(&mut text, |_, out| {
        let Some(watermark) = watermark else {
            out.push(NOTHING);
            return Ok(());
        };
        for byte in watermark.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
                _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if watermark.is_none()
        && let Some((path, query)) = text.split_once('?')
    {
        // What would ask for all that is newer asks for all.
        let known: Vec<_> = query.split('&').filter(|one| !one.contains(char::from(NOTHING))).collect();
        text = if known.is_empty() { path.to_owned() } else { format!("{path}?{}", known.join("&")) };
    }
    Url::parse(&text).map_err(|error| Trouble::This(format!("`{text}` is no address: {error}")))
}
