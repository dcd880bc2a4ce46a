//! An open secure channel: the library's, polled by a task of its own. Extension objects stay bytes: nothing of a server's values is decoded here.

use crate::pki::Own;
use crate::transport::Dial;
use opcua::client::transport::{TransportConfiguration, TransportPollResult};
use opcua::client::{AsyncSecureChannel, SessionRetryPolicy};
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::crypto::CertificateStore;
use opcua::sync::RwLock;
use opcua::types::{
    ByteString, ByteStringBody, Context, ContextOwned, DecodingOptions, DynEncodable, EncodingResult, EndpointDescription, Error,
    NamespaceMap, NodeId, RequestHeader, StatusCode, TypeLoader, TypeLoaderCollection,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// Buffers and limits of a connection: a message has at most 256 chunks of 256 KiB.
const CHUNK_BYTES: usize = 256 * 1024;
const MESSAGE_CHUNKS: usize = 256;
pub(crate) const MESSAGE_BYTES: usize = CHUNK_BYTES * MESSAGE_CHUNKS;
/// The longest array, text and byte string the library decodes; values that come by subscriptions are ours and have their own limits.
const ARRAY_ITEMS: usize = 1_000_000;
/// How long a security token lives, unless the server says less.
const TOKEN_LIFETIME_MS: u32 = 3_600_000;

/// Leaves every extension object as bytes.
struct Undecoded;

impl TypeLoader for Undecoded {
    fn load_from_binary(
        &self,
        id: &NodeId,
        stream: &mut dyn std::io::Read,
        _: &Context<'_>,
        length: Option<usize>,
    ) -> Option<EncodingResult<Box<dyn DynEncodable>>> {
        let length = length?;
        if length > MESSAGE_BYTES {
            return Some(Err(Error::decoding(format!("an extension object of {length} bytes is longer than any message"))));
        }
        let mut body = vec![0; length];
        Some(match stream.read_exact(&mut body) {
            Ok(()) => Ok(Box::new(ByteStringBody::new(ByteString::from(body), id.clone()))),
            Err(error) => Err(error.into()),
        })
    }
}

/// How answers are decoded: every extension object stays bytes.
pub(crate) fn context() -> ContextOwned {
    let mut loaders = TypeLoaderCollection::new_empty();
    loaders.add_type_loader(Undecoded);
    let options = DecodingOptions {
        max_message_size: MESSAGE_BYTES,
        max_chunk_count: MESSAGE_CHUNKS,
        max_string_length: MESSAGE_BYTES,
        max_byte_string_length: MESSAGE_BYTES,
        max_array_length: ARRAY_ITEMS,
        ..Default::default()
    };
    ContextOwned::new(NamespaceMap::new(), loaders, options)
}

/// An open secure channel, polled by a task of its own that ends with it.
pub struct Channel {
    channel: AsyncSecureChannel,
    task: JoinHandle<()>,
    closed: watch::Receiver<Option<StatusCode>>,
    pub(crate) token: Arc<arc_swap::ArcSwap<NodeId>>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channel {
    /// Opens a channel to an endpoint; `own` where it is secured.
    pub(crate) async fn open(url: &str, endpoint: EndpointDescription, own: Option<&Own>, within: Duration) -> Result<Self, Error> {
        // The library reads our certificate from files, and makes its folders `trusted` and `rejected` where they lie: in our own `pki`, which
        // has both, never in the working directory. Without a certificate the paths name nothing.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let paths = own.map(|own| (absolute(&own.certificate_path), absolute(&own.key_path)));
        let store = match &paths {
            Some((certificate, key)) => {
                let pki = certificate.ancestors().nth(3).unwrap_or(Path::new("/"));
                CertificateStore::new_with_x509_data(pki, false, Some(certificate), Some(key), None::<opcua::crypto::X509Data>).0
            }
            None => CertificateStore::new(Path::new("")),
        };
        let token: Arc<arc_swap::ArcSwap<NodeId>> = Arc::default();
        let transport = TransportConfiguration {
            send_buffer_size: CHUNK_BYTES,
            recv_buffer_size: CHUNK_BYTES,
            max_message_size: MESSAGE_BYTES,
            max_chunk_count: MESSAGE_CHUNKS,
        };
        let channel = AsyncSecureChannel::new(
            Arc::new(RwLock::new(store)),
            endpoint.into(),
            SessionRetryPolicy::never(),
            false,
            token.clone(),
            transport,
            TOKEN_LIFETIME_MS,
            Arc::new(RwLock::new(context())),
        );
        let connector = Dial(url.to_owned());
        let opened = tokio::time::timeout(within, channel.connect_no_retry(&connector)).await;
        let mut events = opened.unwrap_or_else(|_| Err(Error::new(StatusCode::BadTimeout, format!("no answer within {within:?}"))))?;
        let (closing, closed) = watch::channel(None);
        let polling = async move {
            loop {
                if let TransportPollResult::Closed(status) = events.poll().await {
                    let _ = closing.send(Some(status));
                    return;
                }
            }
        };
        let task = tokio::spawn(polling.in_current_span());
        Ok(Self { channel, task, closed, token })
    }

    pub fn header(&self, within: Duration) -> RequestHeader {
        RequestHeader {
            authentication_token: NodeId::clone(&self.token.load()),
            timestamp: opcua::types::DateTime::now(),
            request_handle: self.channel.request_handle(),
            timeout_hint: within.as_millis().min(u128::from(u32::MAX)) as u32,
            ..Default::default()
        }
    }

    /// Sends a request and waits for its answer. A fault, and a bad result of the whole service, are errors.
    pub async fn send(&self, request: impl Into<RequestMessage>, within: Duration) -> Result<ResponseMessage, Error> {
        let request = request.into();
        let sent = self.channel.send(request, within);
        // The library times a request out by itself; this bounds the wait for its queue and for a renewed token, too.
        let answer = tokio::time::timeout(within + Duration::from_secs(1), sent).await;
        let answer = answer.unwrap_or_else(|_| Err(Error::new(StatusCode::BadTimeout, format!("no answer within {within:?}"))))?;
        match answer.response_header().service_result {
            status if status.is_bad() => Err(Error::new(status, "the server refused the request")),
            _ => Ok(answer),
        }
    }

    /// Why the channel is closed; `None` while it is open.
    pub fn closed(&self) -> Option<StatusCode> {
        *self.closed.borrow()
    }

    /// Waits until the channel is closed.
    pub async fn until_closed(&self) -> StatusCode {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(StatusCode::BadConnectionClosed),
            Err(_) => StatusCode::BadConnectionClosed,
        }
    }

    /// Says good-bye and waits until it is said.
    pub async fn close(&self) {
        self.channel.close_channel().await;
        self.until_closed().await;
    }
}

pub(crate) fn unexpected(answer: &ResponseMessage) -> Error {
    Error::new(StatusCode::BadUnknownResponse, format!("the server answered with a {}", answer.type_name()))
}
