//! `type: sse`: a stream of server-sent events.

use super::config::{Settings, SseKeys, Stream, StreamsConfig};
use super::event::{Events, Found};
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Guarantee, Loss, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_kit::connections::{Connection, Connections, Others};
use millrace_kit::groups::Beside;
use millrace_kit::http::{Client, EndpointKeys, Expect, Request, StatusCode};
use millrace_kit::records::{Records, reject};
use millrace_schemas::{Origin, Span};
use std::sync::Arc;
use std::time::Duration;

/// A server's wish to be left alone is believed up to here.
const LONGEST_AWAY: Duration = Duration::from_secs(300);

/// `type: sse`.
#[derive(Debug)]
pub struct SseSource;

impl Plugin for SseSource {
    const TYPE: &'static str = "sse";
    const ROLE: Role = Role::Source;
    type Config = Beside<EndpointKeys, StreamsConfig<SseKeys>>;

    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        config.own.compile(&config.shared, &["event"], context, problems).map(|settings| Box::new(CompiledSse(Arc::new(settings))) as _)
    }
}

struct CompiledSse(Arc<Settings<SseKeys>>);

impl Compiled for CompiledSse {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Listening { settings: self.0.clone(), connections: Connections::default() }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce(
            "the id of the last event moves with the records and is sent as `Last-Event-ID`; what the server does not keep for that is not seen".into(),
        )
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        Plan { endpoint: self.0.endpoint.url.to_string(), lines: self.0.streams.iter().map(|stream| stream.line()).collect(), rate: None }
    }
}

struct Listening {
    settings: Arc<Settings<SseKeys>>,
    connections: Connections<Listener>,
}

#[async_trait]
impl Source for Listening {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let client = Arc::new(self.settings.endpoint.client()?);
        let most = usize::try_from(self.settings.endpoint.options.max_body.0).unwrap_or(usize::MAX);
        let make = |number: usize| Listener {
            stream: self.settings.streams[number].clone(),
            client: client.clone(),
            records: Records::new(Origin::Event, self.settings.max_tags),
            most,
        };
        self.connections.run(self.settings.streams.len(), &io, make).await
    }
}

struct Listener {
    stream: Arc<Stream<SseKeys>>,
    client: Arc<Client>,
    records: Records,
    /// Bytes of one event.
    most: usize,
}

impl Connection for Listener {
    async fn run(&mut self, io: &SourceIo, mut others: Others) -> Failure {
        tokio::select! {
            biased;
            () = io.stopping() => Failure::Stopped,
            () = others.ended() => Failure::Stopped,
            failure = self.listen(io) => failure,
        }
    }
}

impl Listener {
    async fn listen(&mut self, io: &SourceIo) -> Failure {
        let name = self.stream.name.clone();
        let known = io.resume(&name).and_then(|id| String::from_utf8(id).ok()).or_else(|| self.stream.own.start.clone());
        let mut request = Request::get(self.stream.url.clone()).expect(Expect::Events).endless().header("cache-control", "no-store");
        if let Some(id) = known.as_ref().filter(|id| !id.is_empty()) {
            request = request.header("last-event-id", id);
        }
        let mut answer = match self.client.open(&request).await {
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => {
                return Failure::Blocked(format!(
                    "{} has nothing to say: it answered 204, which asks clients not to come again",
                    self.stream.url
                ));
            }
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) => {
                return match answer.collect().await {
                    Ok(answer) => self.client.refusal(&answer).into(),
                    Err(error) => error.into(),
                };
            }
            Err(error) => return error.into(),
        };
        io.status(&name, Status::Running);
        io.status("", Status::Running);
        let mut events = Events::new(self.most, known.unwrap_or_default());
        loop {
            let piece = match answer.piece().await {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    let ended = format!("{} ended the stream", self.stream.url);
                    return match events.retry() {
                        Some(wait) => Failure::RetryAfter(wait.min(LONGEST_AWAY), ended),
                        None => Failure::Reconnect(ended),
                    };
                }
                Err(error) => return error.into(),
            };
            io.alive(&name);
            self.take(&piece, &mut events, io).await;
        }
    }

    /// Takes the events that a piece completes, with the id of the last of them.
    async fn take(&mut self, piece: &[u8], events: &mut Events, io: &SourceIo) {
        let before = events.last_id().to_owned();
        let mut batch = io.batch().await;
        let (making, own) = (&self.stream.making, &self.stream.own);
        events.push(piece, |found| match found {
            Found::Event(event) if own.events.is_empty() || own.events.contains(&event.kind) => {
                if let Err(reason) = self.records.take(making, &event.data, &[&event.kind], Span::EMPTY, &mut batch, io) {
                    reject(making, &event.data, Span::EMPTY, reason, &mut batch);
                }
            }
            Found::Event(_) => {}
            Found::TooLarge => io.dropped(Loss::Other("too_large"), 1),
        });
        if !batch.is_empty() || before != events.last_id() {
            // An id that is empty says: from the beginning.
            io.send(batch, &[(&self.stream.name, events.last_id().as_bytes())]).await;
        }
    }
}
