//! `type: websocket`: messages of a WebSocket.
//!
//! A message is one record; text and binary are the same. There is no position: what is said while nobody listens is not seen.

use super::config::{StreamsConfig, WebSocketKeys};
use super::listening::{CompiledStreams, Listener, Protocol};
use futures_util::{SinkExt, StreamExt};
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Loss, Plugin, Role, SourceIo, Status};
use millrace_kit::groups::Beside;
use millrace_kit::http::{EndpointKeys, redact};
use millrace_kit::records::reject;
use millrace_schemas::{Batch, Span};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// A batch is sent when its bytes are so many, or nothing more has come.
const BATCH_BYTES: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);

/// `type: websocket`.
#[derive(Debug)]
pub struct WebSocketSource;

impl Plugin for WebSocketSource {
    const TYPE: &'static str = "websocket";
    const ROLE: Role = Role::Source;
    type Config = Beside<EndpointKeys, StreamsConfig<WebSocketKeys>>;

    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        if let Some(proxy) = &config.shared.http.proxy {
            problems.error(proxy.url.place, "a WebSocket does not go through a proxy yet");
        }
        let protocols = config.own.streams.iter().filter_map(|stream| stream.own.own.own.protocol.as_ref());
        for protocol in protocols.filter(|protocol| HeaderValue::from_str(protocol).is_err()) {
            problems.error(protocol.place, format!("`{}` is no subprotocol", protocol.value));
        }
        let settings = config.own.compile(&config.shared, &[], context, problems)?;
        (!problems.has_errors_since(mark)).then(|| Box::new(CompiledStreams::<Self>::new(settings)) as _)
    }
}

impl Protocol for WebSocketSource {
    type Keys = WebSocketKeys;
    const BECAUSE: &'static str = "a WebSocket has no position: what is said while nobody listens is not seen";
    const KEEPS_POSITIONS: bool = false;

    async fn listen(listener: &mut Listener<Self>, io: &SourceIo) -> Failure {
        listener.listen(io).await
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Listener<WebSocketSource> {
    async fn listen(&mut self, io: &SourceIo) -> Failure {
        let shown = redact::url(&self.stream.url);
        let opening = tokio::time::timeout(CONNECT.max(self.settings.endpoint.options.timeout.0), self.open(&shown)).await;
        let mut socket = match opening {
            Ok(Ok(socket)) => socket,
            Ok(Err(failure)) => return failure,
            Err(_) => return Failure::Reconnect(format!("no answer from {shown} in time")),
        };
        for text in &self.stream.own.send {
            if let Err(error) = socket.send(Message::text(text)).await {
                return failure(&shown, &error);
            }
        }
        io.status(&self.stream.name, Status::Running);
        io.status("", Status::Running);
        let silence = self.settings.endpoint.options.timeout.0;
        let mut is_asked = false;
        let mut pending = None;
        loop {
            let next = match pending.take() {
                Some(next) => Ok(next),
                None => tokio::time::timeout(silence, socket.next()).await,
            };
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => {
                    if matches!(error, Error::Capacity(_)) {
                        io.dropped(Loss::Other("too_large"), 1);
                    }
                    return failure(&shown, &error);
                }
                Ok(None) => return Failure::Reconnect(format!("{shown} closed the WebSocket")),
                // Silence is good, if a ping is answered.
                Err(_) if !std::mem::replace(&mut is_asked, true) => match socket.send(Message::Ping(Vec::new().into())).await {
                    Ok(()) => continue,
                    Err(error) => return failure(&shown, &error),
                },
                Err(_) => return Failure::Reconnect(format!("{shown} says nothing, and answers no ping within {silence:?}")),
            };
            is_asked = false;
            io.alive(&self.stream.name);
            let mut batch = io.batch().await;
            self.take(&message, &mut batch, io);
            // What has come meanwhile goes with it.
            while batch.heap.len() < BATCH_BYTES && pending.is_none() {
                match now(socket.next()).await {
                    Some(Some(Ok(message))) => self.take(&message, &mut batch, io),
                    None => break,
                    ended => pending = ended,
                }
            }
            if !batch.is_empty() {
                io.send(batch, &[]).await;
            }
            if let Message::Close(_) = message {
                return Failure::Reconnect(format!("{shown} closed the WebSocket"));
            }
        }
    }

    fn take(&mut self, message: &Message, batch: &mut Batch, io: &SourceIo) {
        let bytes: &[u8] = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            _ => return,
        };
        let making = &self.stream.making;
        if let Err(reason) = self.records.take(making, bytes, &[], Span::EMPTY, batch, io) {
            reject(making, bytes, Span::EMPTY, reason.into(), batch);
        }
    }

    /// Connects, logs in, and opens the WebSocket.
    async fn open(&self, shown: &str) -> Result<WebSocketStream<Box<dyn Wire>>, Failure> {
        let tls = &self.settings.endpoint.tls;
        let url = &self.stream.url;
        let is_secure = url.scheme() == "https";
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let bare = host.trim_matches(['[', ']']);
        let stream =
            TcpStream::connect((bare, port)).await.map_err(|error| Failure::Reconnect(format!("cannot connect to {shown}: {error}")))?;
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Wire> = if is_secure { Box::new(tls.connect(stream, host, shown).await?) } else { Box::new(stream) };
        let scheme = if is_secure { "wss" } else { "ws" };
        let text = format!("{scheme}{}", &url.as_str()[url.scheme().len()..]);
        let mut request = text.into_client_request().map_err(|error| failure(shown, &error))?;
        for (name, value) in &self.client.headers_at_home().await? {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes())) {
                request.headers_mut().insert(name, value);
            }
        }
        if let Some(protocol) = self.stream.own.protocol.as_ref().and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        }
        let most = self.most();
        let bounds = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
        match tokio_tungstenite::client_async_with_config(request, stream, Some(bounds)).await {
            Ok((socket, _)) => Ok(socket),
            Err(error) => Err(failure(shown, &error)),
        }
    }
}

/// What is there already; `None`: it would have to be waited for.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = future => Some(outcome),
        () = std::future::ready(()) => None,
    }
}

fn failure(shown: &str, error: &Error) -> Failure {
    match error {
        Error::Http(answer) if answer.status().as_u16() == 429 || answer.status().is_server_error() => {
            Failure::Reconnect(format!("{shown} answered {} instead of opening a WebSocket", answer.status()))
        }
        Error::Http(answer) => {
            Failure::Blocked(format!("{shown} answered {} instead of opening a WebSocket; check the path and `login`", answer.status()))
        }
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            Failure::Reconnect(format!("{shown} sent a message of {size} bytes, more than {max_size}; raise `http.max_body`"))
        }
        other => Failure::Reconnect(format!("{shown}: {other}")),
    }
}
