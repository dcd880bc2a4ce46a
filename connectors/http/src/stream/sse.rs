//! `type: sse`: a stream of server-sent events.

use super::config::{SseKeys, StreamsConfig};
use super::event::{Events, Found};
use super::listening::{CompiledStreams, Listener, Protocol};
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Loss, Plugin, Role, SourceIo, Status};
use millrace_kit::groups::Beside;
use millrace_kit::http::{EndpointKeys, Expect, Request, StatusCode};
use millrace_kit::records::reject;
use millrace_schemas::Span;
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
        let settings = config.own.compile(&config.shared, &["event"], context, problems)?;
        Some(Box::new(CompiledStreams::<Self>::new(settings)))
    }
}

impl Protocol for SseSource {
    type Keys = SseKeys;
    const BECAUSE: &'static str = "the id of the last event moves with the records and is sent as `Last-Event-ID`; what the server does not keep for that is not seen";
    const KEEPS_POSITIONS: bool = true;

    async fn listen(listener: &mut Listener<Self>, io: &SourceIo) -> Failure {
        listener.listen(io).await
    }
}

impl Listener<SseSource> {
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
        let mut events = Events::new(self.most(), known.unwrap_or_default());
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
                    reject(making, &event.data, Span::EMPTY, reason.into(), &mut batch);
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
