//! The transport under a secure channel: requests out, chunks in, an answer's bytes to [`crate::answer`].
//!
//! ```text
//! request ──> send buffer ──> TCP            TCP ──> chunk ──> the library's state: security, sequence numbers, OpenSecureChannel
//!                                                      └─────> verified again, collected by request id ──> answer.rs ──> whoever asked
//! ```
//!
//! The library's own transport decodes every answer, and closes the connection over one text that is not UTF-8. Here the library opens and renews
//! the channel, and watches over every chunk; answers are ours.
//!
//! Invariants: an answer that can't be read fails its own request; a message has at most [`TransportConfiguration::max_chunk_count`] chunks;
//! [`Transport::poll`] may be cancelled.

use crate::answer;
use futures_util::StreamExt;
use opcua::client::transport::{
    Connector, OutgoingMessage, RequestRecv, SecureChannelState, Transport, TransportConfiguration, TransportPollResult, TransportState,
};
use opcua::core::comms::buffer::SendBuffer;
use opcua::core::comms::message_chunk::{MessageChunk, MessageIsFinalType};
use opcua::core::comms::tcp_codec::{Message, TcpCodec};
use opcua::core::comms::tcp_types::{HelloMessage, MIN_CHUNK_SIZE};
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::types::{EndpointDescription, Error, SimpleBinaryEncodable, StatusCode};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::FramedRead;

/// The host (of an IPv6 address without its brackets) and the port of `opc.tcp://host:port/path`.
pub fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let rest = url.strip_prefix("opc.tcp://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => 4840,
        Some(port) => port.parse().ok()?,
    };
    (!host.is_empty()).then_some((host, port))
}

/// Dials an endpoint.
pub struct Dial(pub String);

type Answer = oneshot::Sender<Result<ResponseMessage, Error>>;

/// A request that waits for its answer.
struct Pending {
    answer: Answer,
    body: Vec<u8>,
    chunks: usize,
    deadline: Instant,
}

/// An open connection.
pub struct Line {
    url: String,
    channel: Arc<SecureChannelState>,
    /// The library's: it opens and renews the channel.
    library: TransportState,
    to_library: mpsc::Sender<OutgoingMessage>,
    outgoing: RequestRecv,
    pending: HashMap<u32, Pending>,
    chunks_most: usize,
    read: FramedRead<OwnedReadHalf, TcpCodec>,
    write: OwnedWriteHalf,
    buffer: SendBuffer,
    /// The last request was said: what is in the buffer is written, then the connection closed.
    is_last_said: bool,
    closed: Option<StatusCode>,
}

fn broken(what: impl ToString) -> Error {
    Error::new(StatusCode::BadCommunicationError, what.to_string())
}

impl Connector for Dial {
    type Transport = Line;

    async fn connect(
        &self,
        channel: Arc<SecureChannelState>,
        outgoing: RequestRecv,
        config: TransportConfiguration,
    ) -> Result<Line, Error> {
        let url = self.0.clone();
        let (host, port) = host_and_port(&url).ok_or_else(|| broken(format!("`{url}` is no endpoint")))?;
        let stream = TcpStream::connect((host, port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let (read, mut write) = stream.into_split();
        let (options, is_legacy) = {
            let secure = channel.secure_channel().read();
            (secure.decoding_options(), secure.security_policy().legacy_sequence_numbers())
        };
        let mut read = FramedRead::with_capacity(read, TcpCodec::new(options), 64 * 1024);
        let TransportConfiguration { send_buffer_size, recv_buffer_size, max_message_size, max_chunk_count } = config;
        let hello = HelloMessage::new(&url, send_buffer_size, recv_buffer_size, max_message_size, max_chunk_count);
        write.write_all(&hello.encode_to_vec()).await.map_err(broken)?;
        let ack = match read.next().await {
            Some(Ok(Message::Acknowledge(ack))) => ack,
            Some(Ok(Message::Error(error))) => return Err(Error::new(error.error, format!("the server says: {}", error.reason))),
            Some(Ok(_)) => return Err(broken("the server answered to Hello with something else than Acknowledge")),
            Some(Err(error)) => return Err(broken(error)),
            None => return Err(Error::new(StatusCode::BadConnectionClosed, "the server closed the connection after Hello")),
        };
        let (sends, receives) = (ack.send_buffer_size as usize, ack.receive_buffer_size as usize);
        if sends < MIN_CHUNK_SIZE || receives < MIN_CHUNK_SIZE {
            let what = format!("the server's buffers of {sends} and {receives} bytes are smaller than the least that the standard allows");
            return Err(Error::new(StatusCode::BadTcpInternalError, what));
        }
        let mut buffer = SendBuffer::new(send_buffer_size, max_message_size, max_chunk_count, is_legacy);
        buffer.revise(receives, ack.max_message_size as usize, ack.max_chunk_count as usize);
        let (to_library, for_library) = mpsc::channel(8);
        let library = TransportState::new(channel.clone(), for_library, max_chunk_count, sends.min(recv_buffer_size));
        let chunks_most = max_chunk_count;
        Ok(Line {
            url,
            channel,
            library,
            to_library,
            outgoing,
            pending: HashMap::new(),
            chunks_most,
            read,
            write,
            buffer,
            is_last_said: false,
            closed: None,
        })
    }

    fn default_endpoint(&self) -> EndpointDescription {
        EndpointDescription::from(self.0.as_str())
    }
}

impl Transport for Line {
    async fn poll(&mut self) -> TransportPollResult {
        if let Some(status) = self.closed {
            return TransportPollResult::Closed(status);
        }
        let result = self.step().await;
        if let TransportPollResult::Closed(status) = result {
            self.closed = Some(status);
            let reason = if status.is_good() { StatusCode::BadConnectionClosed } else { status };
            for (_, pending) in self.pending.drain() {
                let _ = pending.answer.send(Err(Error::new(reason, "the connection is closed")));
            }
            self.outgoing.close();
            while let Ok(message) = self.outgoing.try_recv() {
                if let Some(answer) = message.callback {
                    let _ = answer.send(Err(Error::new(reason, "the connection is closed")));
                }
            }
            self.library.close(status).await;
        }
        result
    }

    fn connected_url(&self) -> &str {
        &self.url
    }
}

impl Line {
    /// One thing that happens. Each wait is for one future, so that it may be dropped.
    async fn step(&mut self) -> TransportPollResult {
        if self.buffer.should_encode_chunks() {
            let secure = self.channel.secure_channel().read();
            if let Err(status) = self.buffer.encode_next_chunk(&secure) {
                return TransportPollResult::Closed(status);
            }
        }
        if self.buffer.can_read() {
            return tokio::select! {
                written = self.buffer.read_into_async(&mut self.write) => match written {
                    Ok(()) => TransportPollResult::OutgoingMessageSent,
                    Err(error) => {
                        tracing::debug!(%error, "a request can't be written");
                        TransportPollResult::Closed(StatusCode::BadCommunicationError)
                    }
                },
                incoming = self.read.next() => self.incoming(incoming),
            };
        }
        if self.is_last_said {
            return TransportPollResult::Closed(StatusCode::Good);
        }
        let deadline = self.pending.values().map(|pending| pending.deadline).min();
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            of_the_channel = self.library.wait_for_outgoing_message(&mut self.buffer) => match of_the_channel {
                Some((request, id)) => self.write(id, request),
                None => TransportPollResult::Closed(StatusCode::Good),
            },
            message = self.outgoing.recv() => match message {
                Some(message) => self.send(message),
                None => TransportPollResult::Closed(StatusCode::Good),
            },
            incoming = self.read.next() => self.incoming(incoming),
            () = expired => {
                self.expire();
                TransportPollResult::RecoverableError(StatusCode::BadTimeout)
            }
        }
    }

    fn send(&mut self, message: OutgoingMessage) -> TransportPollResult {
        if matches!(message.request, RequestMessage::OpenSecureChannel(_)) {
            return match self.to_library.try_send(message) {
                Ok(()) => TransportPollResult::OutgoingMessage,
                Err(_) => TransportPollResult::Closed(StatusCode::BadSecureChannelClosed),
            };
        }
        self.is_last_said |= matches!(message.request, RequestMessage::CloseSecureChannel(_));
        let id = self.buffer.next_request_id();
        if let Some(answer) = message.callback {
            self.pending.insert(id, Pending { answer, body: Vec::new(), chunks: 0, deadline: message.deadline });
        }
        self.write(id, message.request)
    }

    fn write(&mut self, id: u32, request: RequestMessage) -> TransportPollResult {
        let secure = self.channel.secure_channel().read();
        let written = self.buffer.write(id, request, &secure);
        drop(secure);
        match written {
            Ok(_) => TransportPollResult::OutgoingMessage,
            Err(error) => {
                let status = error.status();
                let is_its_own = error.full_context().is_some();
                match self.pending.remove(&id) {
                    Some(pending) => drop(pending.answer.send(Err(error))),
                    None => self.library.message_send_failed(id, error),
                }
                if is_its_own { TransportPollResult::RecoverableError(status) } else { TransportPollResult::Closed(status) }
            }
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<u32> = self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| *id).collect();
        for pending in late.iter().filter_map(|id| self.pending.remove(id)) {
            let _ = pending.answer.send(Err(Error::new(StatusCode::BadTimeout, "no answer in time")));
        }
    }

    fn incoming(&mut self, incoming: Option<Result<Message, std::io::Error>>) -> TransportPollResult {
        let result = match incoming {
            Some(Ok(Message::Chunk(chunk))) => self.chunk(chunk),
            Some(Ok(other)) => self.library.handle_incoming_message(other),
            Some(Err(error)) => {
                tracing::debug!(%error, "the connection broke");
                return TransportPollResult::Closed(StatusCode::BadConnectionClosed);
            }
            None => return TransportPollResult::Closed(StatusCode::BadCommunicationError),
        };
        match result {
            Ok(()) => TransportPollResult::IncomingMessage,
            Err(error) => {
                tracing::debug!(%error, "the server sent what can't be accepted");
                TransportPollResult::Closed(error.status())
            }
        }
    }

    /// Errors: the channel can't go on. An answer that can't be read is told to whoever waits for it.
    fn chunk(&mut self, chunk: MessageChunk) -> Result<(), Error> {
        let sealed = chunk.data.clone();
        // Security and sequence; the answers of requests that are not its own it passes over.
        let is_of_the_channel = {
            let options = self.channel.secure_channel().read().decoding_options();
            chunk.is_open_secure_channel(&options)
        };
        self.library.handle_incoming_message(Message::Chunk(chunk))?;
        if is_of_the_channel {
            return Ok(());
        }
        let secure = self.channel.secure_channel().read();
        let chunk = secure.verify_and_remove_security(sealed)?;
        let info = chunk.chunk_info(&secure)?;
        let id = info.sequence_header.request_id;
        let Some(pending) = self.pending.get_mut(&id) else { return Ok(()) };
        let end = info.body_offset.saturating_add(info.body_length);
        let part = chunk.data.get(info.body_offset..end).ok_or_else(|| broken("a chunk is shorter than it says"))?;
        match &info.message_header.is_final {
            MessageIsFinalType::Intermediate if pending.chunks + 1 < self.chunks_most => {
                pending.body.extend_from_slice(part);
                pending.chunks += 1;
                Ok(())
            }
            MessageIsFinalType::Final => {
                pending.body.extend_from_slice(part);
                let Some(pending) = self.pending.remove(&id) else { return Ok(()) };
                let context = secure.context();
                let _ = pending.answer.send(answer::read(pending.body, &context.context()));
                Ok(())
            }
            kind => {
                let error = match kind {
                    MessageIsFinalType::FinalError => match chunk.final_error_body(&info, &secure.decoding_options()) {
                        Ok(error) => Error::new(error.status, format!("the server says: {}", error.reason)),
                        Err(error) => error,
                    },
                    _ => Error::new(StatusCode::BadEncodingLimitsExceeded, "the answer has more chunks than were agreed on"),
                };
                if let Some(pending) = self.pending.remove(&id) {
                    let _ = pending.answer.send(Err(error));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_port() {
        assert_eq!(host_and_port("opc.tcp://10.0.0.3:4841/UA/Server"), Some(("10.0.0.3", 4841)));
        assert_eq!(host_and_port("opc.tcp://press"), Some(("press", 4840)));
        assert_eq!(host_and_port("opc.tcp://[fe80::1]:4840"), Some(("fe80::1", 4840)));
        assert_eq!(host_and_port("opc.tcp://:4840"), None);
        assert_eq!(host_and_port("http://press"), None);
        assert_eq!(host_and_port("opc.tcp://press:port"), None);
    }
}
