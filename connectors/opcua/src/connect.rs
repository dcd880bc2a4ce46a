//! From an endpoint's URL to an activated session: what was asked for, or the reason why not.
//!
//! ```text
//! url ──GetEndpoints──> the endpoint with the policy and mode asked for ──trusted?──> secure channel ──> session, kept or new ──> activated
//! ```
//!
//! The channel is the library's; sessions are ours: a kept session is activated on the new channel with the nonce the server last gave it, on
//! encrypted channels, too. Who a server is, [`crate::pki`] decides, before anything is told to it.
//!
//! Invariants: nothing is secured less than asked for. Extension objects stay bytes: nothing of a server's values is decoded here.

use crate::pki::{Own, Pki};
use crate::session::{Refused, Session};
use futures_util::FutureExt;
use millrace_contract::Failure;
use opcua::client::transport::{StreamConnection, StreamConnector, TransportConfiguration, TransportPollResult};
use opcua::client::{AsyncSecureChannel, SessionRetryPolicy};
use opcua::core::comms::tcp_codec::TcpCodec;
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::crypto::{CertificateStore, PrivateKey, SecurityPolicy, X509};
use opcua::sync::RwLock;
use opcua::types::{
    ActivateSessionRequest, AnonymousIdentityToken, ApplicationDescription, ApplicationType, ByteString, ByteStringBody, Context,
    ContextOwned, CreateSessionRequest, DecodingOptions, DynEncodable, EncodingResult, EndpointDescription, Error, ExtensionObject,
    GetEndpointsRequest, LocalizedText, MessageSecurityMode, NamespaceMap, NodeId, RequestHeader, SignatureData, StatusCode, TypeLoader,
    TypeLoaderCollection, UAString, UserNameIdentityToken, UserTokenPolicy, UserTokenType, X509IdentityToken,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::codec::FramedRead;

/// A security policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
pub enum Policy {
    /// Nothing is signed, nothing encrypted.
    #[default]
    None,
    /// The usual one.
    Basic256Sha256,
    /// For small devices.
    #[serde(rename = "Aes128_Sha256_RsaOaep")]
    Aes128Sha256RsaOaep,
    /// The strongest.
    #[serde(rename = "Aes256_Sha256_RsaPss")]
    Aes256Sha256RsaPss,
}

/// What of a message is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
pub enum Mode {
    /// Nothing.
    #[default]
    None,
    /// Against change.
    Sign,
    /// Against change and reading.
    SignAndEncrypt,
}

impl Policy {
    pub fn uri(self) -> &'static str {
        self.of_the_library().to_uri()
    }

    fn of_the_library(self) -> SecurityPolicy {
        match self {
            Self::None => SecurityPolicy::None,
            Self::Basic256Sha256 => SecurityPolicy::Basic256Sha256,
            Self::Aes128Sha256RsaOaep => SecurityPolicy::Aes128Sha256RsaOaep,
            Self::Aes256Sha256RsaPss => SecurityPolicy::Aes256Sha256RsaPss,
        }
    }
}

impl Mode {
    fn of_the_library(self) -> MessageSecurityMode {
        match self {
            Self::None => MessageSecurityMode::None,
            Self::Sign => MessageSecurityMode::Sign,
            Self::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
        }
    }
}

/// Who Millrace is to the server.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Identity {
    #[default]
    Anonymous,
    User(String, millrace_config::Secret),
    /// Paths of a certificate and its private key.
    Certificate(String, String),
}

/// Everything needed to reach one server.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: String,
    pub policy: Policy,
    pub mode: Mode,
    pub identity: Identity,
    pub pki: Pki,
    /// The session's name, for the server's diagnostics.
    pub name: String,
    /// How long any answer may take.
    pub answer_within: Duration,
    /// How long the server keeps the session while nobody talks to it.
    pub session_timeout: Duration,
}

/// What of a session outlives its connection: with it, the next connection goes on with the same session and its subscriptions.
#[derive(Clone)]
pub struct Kept {
    pub session_id: NodeId,
    token: NodeId,
    nonce: ByteString,
}

impl Kept {
    /// As part of the source's position. The token is of use only to who holds our key, on a secured channel.
    pub fn write(&self) -> String {
        format!("{}\n{}\n{}", self.session_id, self.token, self.nonce.as_base64())
    }

    pub fn read(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.split('\n');
        let (session_id, token, nonce) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?, lines.next()?);
        let nonce = if nonce.is_empty() { ByteString::null() } else { ByteString::from_base64(nonce)? };
        Some(Self { session_id, token, nonce })
    }
}

/// Buffers and limits of a connection: a message has at most 256 chunks of 256 KiB.
const CHUNK_BYTES: usize = 256 * 1024;
const MESSAGE_CHUNKS: usize = 256;
const MESSAGE_BYTES: usize = CHUNK_BYTES * MESSAGE_CHUNKS;
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

fn context() -> ContextOwned {
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
    token: Arc<arc_swap::ArcSwap<NodeId>>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn dial(
    url: String,
    options: DecodingOptions,
) -> Result<StreamConnection<tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf>, Error> {
    let failed = |what: String| Error::new(StatusCode::BadCommunicationError, what);
    let (host, port) = host_and_port(&url).ok_or_else(|| failed(format!("`{url}` is no endpoint")))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
    let (read, write) = stream.into_split();
    let read = FramedRead::with_capacity(read, TcpCodec::new(options), 64 * 1024);
    Ok(StreamConnection::new(read, write, url))
}

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

impl Channel {
    /// Opens a channel to an endpoint; `own` where it is secured.
    async fn open(url: &str, endpoint: EndpointDescription, own: Option<&Own>, within: Duration) -> Result<Self, Error> {
        // The library reads our certificate from files; without one the paths name nothing.
        let nowhere = Path::new("");
        let paths = own.map(|own| (own.certificate_path.clone(), own.key_path.clone()));
        let store = match &paths {
            Some((certificate, key)) => {
                CertificateStore::new_with_x509_data(nowhere, false, Some(certificate), Some(key), None::<opcua::crypto::X509Data>).0
            }
            None => CertificateStore::new(nowhere),
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
        let connector = StreamConnector::new(dial, url.to_owned());
        let opened = tokio::time::timeout(within, channel.connect_no_retry(&connector)).await;
        let mut events = opened.unwrap_or_else(|_| Err(Error::new(StatusCode::BadTimeout, format!("no answer within {within:?}"))))?;
        let (closing, closed) = watch::channel(None);
        let task = tokio::spawn(async move {
            loop {
                if let TransportPollResult::Closed(status) = events.poll().await {
                    let _ = closing.send(Some(status));
                    return;
                }
            }
        });
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

/// What a server offers: over an unsecured channel, as the standard has it.
pub async fn endpoints(url: &str, within: Duration) -> Result<Vec<EndpointDescription>, Failure> {
    let asked = async {
        let channel = Channel::open(url, EndpointDescription::from(url), None, within).await?;
        let request =
            GetEndpointsRequest { request_header: channel.header(within), endpoint_url: url.into(), locale_ids: None, profile_uris: None };
        let answer = channel.send(request, within).await?;
        channel.close().now_or_never();
        match answer {
            ResponseMessage::GetEndpoints(answer) => Ok(answer.endpoints.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    };
    asked.await.map_err(|error| failure(url, "cannot ask", &error))
}

pub(crate) fn unexpected(answer: &ResponseMessage) -> Error {
    Error::new(StatusCode::BadUnknownResponse, format!("the server answered with a {}", answer.type_name()))
}

/// What the engine does after this error.
pub fn failure(url: &str, what: &str, error: &Error) -> Failure {
    let status = error.status();
    let text = format!("{what} {url}: {error}");
    let hint = match status {
        StatusCode::BadUserAccessDenied | StatusCode::BadIdentityTokenRejected | StatusCode::BadIdentityTokenInvalid => {
            "; check `login` and the server's users"
        }
        StatusCode::BadSecurityChecksFailed
        | StatusCode::BadCertificateUntrusted
        | StatusCode::BadCertificateInvalid
        | StatusCode::BadCertificateUriInvalid
        | StatusCode::BadCertificateUseNotAllowed
        | StatusCode::BadCertificateTimeInvalid
        | StatusCode::BadCertificateRevoked
        | StatusCode::BadCertificateChainIncomplete
        | StatusCode::BadCertificateIssuerTimeInvalid => {
            "; the server does not trust Millrace's certificate: take it there with `millrace pki export` and approve it"
        }
        StatusCode::BadSecurityPolicyRejected | StatusCode::BadSecurityModeRejected => "; check `security` and `login`",
        StatusCode::BadTooManySessions => {
            return Failure::RetryAfter(Duration::from_secs(30), format!("{text}; close sessions on the server"));
        }
        _ => return Failure::Reconnect(text),
    };
    Failure::Blocked(format!("{text}{hint}"))
}

/// The endpoint that is secured as asked; never another.
fn choose(offered: Vec<EndpointDescription>, target: &Target) -> Result<EndpointDescription, Failure> {
    let binary = |endpoint: &EndpointDescription| {
        let transport = endpoint.transport_profile_uri.as_ref();
        transport.is_empty() || transport.ends_with("/uatcp-uasc-uabinary")
    };
    let mut had = Vec::new();
    for endpoint in offered.into_iter().filter(binary) {
        if endpoint.security_mode == target.mode.of_the_library() && endpoint.security_policy_uri.as_ref() == target.policy.uri() {
            return Ok(endpoint);
        }
        let policy = endpoint.security_policy_uri.as_ref();
        had.push(format!("{} {:?}", policy.rsplit_once('#').map_or(policy, |(_, name)| name), endpoint.security_mode));
    }
    had.sort_unstable();
    had.dedup();
    Err(Failure::Blocked(format!(
        "{} does not offer {:?} with {:?}; it offers {}; change `security`, or the server",
        target.url,
        target.policy,
        target.mode,
        if had.is_empty() { "nothing over opc.tcp".to_owned() } else { had.join(", ") }
    )))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Reconnect(format!("a task of the certificates ended: {error}")))
}

/// Connects, and activates the kept session; or a new one, where there is none or the server no longer knows it.
pub async fn connect(target: &Target, kept: Option<Kept>) -> Result<Session, Failure> {
    let url = &target.url;
    let endpoint = choose(endpoints(url, target.answer_within).await?, target)?;
    let secured = target.policy != Policy::None;
    let own = if secured { trusted(target, &endpoint).await? } else { None };
    let open = Channel::open(url, endpoint.clone(), own.as_ref(), target.answer_within).await;
    let channel = open.map_err(|error| failure(url, "cannot connect to", &error))?;
    let login = Login::of(target, endpoint, own).await?;
    if let Some(kept) = kept {
        channel.token.store(Arc::new(kept.token.clone()));
        match login.activate(&channel, &kept.nonce).await {
            Ok(nonce) => return Ok(Session::new(channel, Kept { nonce, ..kept }, true, target.answer_within)),
            // A server may close the connection on it; then a new session begins on a new one.
            Err(error) if channel.closed().is_some() => {
                tracing::info!(endpoint = %url, %error, "the server does not go on with the session; a new one begins");
                return Box::pin(connect(target, None)).await;
            }
            Err(error) => tracing::info!(endpoint = %url, %error, "the server no longer knows the session; a new one begins"),
        }
        channel.token.store(Arc::new(NodeId::null()));
    }
    let created = login.create(&channel).await.map_err(|error| failure(url, "cannot open a session on", &error))?;
    channel.token.store(Arc::new(created.token.clone()));
    let nonce = login.activate(&channel, &created.nonce).await.map_err(|error| failure(url, "cannot log in to", &error))?;
    Ok(Session::new(channel, Kept { nonce, ..created }, false, target.answer_within))
}

/// Our own certificate, if the server's is trusted.
async fn trusted(target: &Target, endpoint: &EndpointDescription) -> Result<Option<Own>, Failure> {
    let pki = target.pki.clone();
    let certificate = endpoint.server_certificate.as_ref().to_vec();
    let application = endpoint.server.application_uri.as_ref().to_owned();
    let host = host_and_port(&target.url).map_or_else(String::new, |(host, _)| host.to_owned());
    let judged = blocking(move || pki.judge(&certificate, &host, &application).and_then(|()| pki.own())).await?;
    judged.map(Some).map_err(|why| Failure::Blocked(format!("cannot trust {}: {why}", target.url)))
}

/// What sessions of one connection are made with.
struct Login<'a> {
    target: &'a Target,
    endpoint: EndpointDescription,
    own: Option<Own>,
    server_certificate: Option<X509>,
    user_certificate: Option<(X509, PrivateKey)>,
}

impl<'a> Login<'a> {
    async fn of(target: &'a Target, endpoint: EndpointDescription, own: Option<Own>) -> Result<Self, Failure> {
        let server_certificate = X509::from_byte_string(&endpoint.server_certificate).ok();
        let user_certificate = match &target.identity {
            Identity::Certificate(certificate, key) => {
                let (certificate_path, key_path) = (certificate.clone(), key.clone());
                let read = blocking(move || {
                    let certificate = CertificateStore::read_cert(Path::new(&certificate_path));
                    certificate.and_then(|certificate| CertificateStore::read_pkey(Path::new(&key_path)).map(|key| (certificate, key)))
                });
                let read = read.await?;
                Some(read.map_err(|error| {
                    Failure::Blocked(format!("cannot read the user's certificate {certificate} or its key {key}: {error}"))
                })?)
            }
            _ => None,
        };
        Ok(Self { target, endpoint, own, server_certificate, user_certificate })
    }

    async fn create(&self, channel: &Channel) -> Result<Kept, Error> {
        let within = self.target.answer_within;
        let nonce = opcua::crypto::random::byte_string(32);
        let application_uri = self.own.as_ref().map_or("urn:millrace", |own| own.application_uri.as_str());
        let request = CreateSessionRequest {
            request_header: channel.header(within),
            client_description: ApplicationDescription {
                application_uri: application_uri.into(),
                product_uri: "urn:millrace".into(),
                application_name: LocalizedText::from("Millrace"),
                application_type: ApplicationType::Client,
                ..Default::default()
            },
            server_uri: UAString::null(),
            endpoint_url: self.target.url.as_str().into(),
            session_name: self.target.name.as_str().into(),
            client_nonce: nonce.clone(),
            client_certificate: self.own.as_ref().map(|own| own.certificate.as_byte_string()).unwrap_or_default(),
            requested_session_timeout: self.target.session_timeout.as_secs_f64() * 1000.0,
            max_response_message_size: MESSAGE_BYTES as u32,
        };
        let answer = match channel.send(request, within).await? {
            ResponseMessage::CreateSession(answer) => answer,
            other => return Err(unexpected(&other)),
        };
        if let Some(own) = &self.own {
            if answer.server_certificate != self.endpoint.server_certificate {
                let what = "the session's certificate is another than the endpoint's";
                return Err(Error::new(StatusCode::BadSecurityChecksFailed, what));
            }
            let server =
                self.server_certificate.as_ref().ok_or_else(|| Error::new(StatusCode::BadCertificateInvalid, "no server certificate"))?;
            let policy = self.target.policy.of_the_library();
            opcua::crypto::verify_signature_data(&answer.server_signature, policy, server, &own.certificate, nonce.as_ref())?;
        }
        Ok(Kept { session_id: answer.session_id, token: answer.authentication_token, nonce: answer.server_nonce })
    }

    /// Returns the server's next nonce.
    async fn activate(&self, channel: &Channel, nonce: &ByteString) -> Result<ByteString, Error> {
        let within = self.target.answer_within;
        let client_signature = match &self.own {
            None => SignatureData::null(),
            Some(own) => {
                let policy = self.target.policy.of_the_library();
                opcua::crypto::create_signature_data(&own.key, policy, &self.endpoint.server_certificate, nonce)?
            }
        };
        let (user_identity_token, user_token_signature) = self.identity(nonce)?;
        let request = ActivateSessionRequest {
            request_header: channel.header(within),
            client_signature,
            client_software_certificates: None,
            locale_ids: None,
            user_identity_token,
            user_token_signature,
        };
        match channel.send(request, within).await? {
            ResponseMessage::ActivateSession(answer) => Ok(answer.server_nonce),
            other => Err(unexpected(&other)),
        }
    }

    fn policy(&self, kind: UserTokenType, what: &str) -> Result<&UserTokenPolicy, Error> {
        self.endpoint
            .find_policy(kind)
            .ok_or_else(|| Error::new(StatusCode::BadIdentityTokenRejected, format!("this endpoint of the server takes no {what}")))
    }

    fn identity(&self, nonce: &ByteString) -> Result<(ExtensionObject, SignatureData), Error> {
        match &self.target.identity {
            Identity::Anonymous => {
                // Some servers name no policy at all for anonymous users.
                let policy_id = self.endpoint.find_policy(UserTokenType::Anonymous).map(|policy| policy.policy_id.clone());
                let token = AnonymousIdentityToken { policy_id: policy_id.unwrap_or_default() };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            Identity::User(user, password) => {
                let policy = self.policy(UserTokenType::UserName, "user name")?;
                let secret = opcua::crypto::legacy_encrypt_secret(
                    self.target.policy.of_the_library(),
                    self.target.mode.of_the_library(),
                    policy,
                    nonce.as_ref(),
                    &self.server_certificate,
                    password.expose().as_bytes(),
                )?;
                let token = UserNameIdentityToken {
                    policy_id: secret.policy,
                    user_name: user.as_str().into(),
                    password: secret.secret,
                    encryption_algorithm: secret.encryption_algorithm,
                };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            Identity::Certificate(..) => {
                let policy = self.policy(UserTokenType::Certificate, "user certificate")?;
                let Some((certificate, key)) = &self.user_certificate else {
                    return Err(Error::new(StatusCode::BadIdentityTokenInvalid, "the user's certificate was not read"));
                };
                let own_policy = policy.security_policy_uri.as_ref();
                let security =
                    if own_policy.is_empty() { self.target.policy.of_the_library() } else { SecurityPolicy::from_uri(own_policy) };
                let signature = opcua::crypto::create_signature_data(key, security, &self.endpoint.server_certificate, nonce)?;
                let token = X509IdentityToken { policy_id: policy.policy_id.clone(), certificate_data: certificate.as_byte_string() };
                Ok((ExtensionObject::from_message(token), signature))
            }
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Reconnect(refused.to_string())
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
