//! What is asked of a server: reads, browses, calls, in pieces that it takes.
//!
//! Every service that takes a list is asked in pieces of the size its OperationLimits say, and smaller ones where the server takes less than it
//! says: it then answers BadTooManyOperations, or with a message that is too large, and the piece is halved for good.
//!
//! Invariants: an answer with another number of results than were asked for is an error; nothing here reconnects.

use crate::address::Space;
use crate::answer::{self, Raw};
use crate::channel::{Channel, context, unexpected};
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::types::{
    AttributeId, BrowseDescription, BrowseDirection, BrowseNextRequest, BrowseRequest, BrowseResult, ByteString, CallMethodRequest,
    CallMethodResult, CallRequest, CloseSessionRequest, DataValue, Error, NodeId, ReadRequest, ReadValueId, ReferenceDescription,
    ReferenceTypeId, RequestHeader, StatusCode, TimestampsToReturn, VariableId, Variant, WriteRequest, WriteValue,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Proof that this factory's file may write to devices; none is made without `floor: {writes: allowed}`. Every Write and Call asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Permission(());

impl Permission {
    pub fn of(writes_allowed: bool) -> Option<Self> {
        writes_allowed.then_some(Self(()))
    }
}

/// A service that failed as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{service} failed: {error}")]
pub struct Refused {
    pub service: &'static str,
    pub error: Error,
}

impl Refused {
    pub fn status(&self) -> StatusCode {
        self.error.status()
    }

    /// The server does not have the service, and never will.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.status(), StatusCode::BadServiceUnsupported | StatusCode::BadNotImplemented | StatusCode::BadNotSupported)
    }

    /// The server makes no (more) subscriptions.
    pub fn is_no_subscription(&self) -> bool {
        self.is_unsupported() || self.status() == StatusCode::BadTooManySubscriptions
    }

    /// Smaller pieces may go.
    fn is_too_large(&self) -> bool {
        matches!(
            self.status(),
            StatusCode::BadTooManyOperations
                | StatusCode::BadEncodingLimitsExceeded
                | StatusCode::BadRequestTooLarge
                | StatusCode::BadResponseTooLarge
                | StatusCode::BadTcpMessageTooLarge
        )
    }
}

/// How many items a service takes at once; shrinks where the server takes fewer than it says.
#[derive(Debug)]
pub struct Piece(AtomicUsize);

impl Piece {
    pub fn of(items: usize) -> Self {
        Self(AtomicUsize::new(items.max(1)))
    }

    pub fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Halves it; `false` where nothing smaller is left.
    fn halve(&self, tried: usize) -> bool {
        let half = tried / 2;
        if half > 0 {
            self.0.store(half, Relaxed);
        }
        half > 0
    }
}

/// The server's OperationLimits, in effect.
#[derive(Debug)]
pub struct Limits {
    pub read: Piece,
    pub write: Piece,
    pub browse: Piece,
    pub monitor: Piece,
    pub history: Piece,
    pub call: Piece,
}

/// Larger pieces bring nothing.
const LARGEST_PIECE: usize = 5_000;

impl Default for Limits {
    fn default() -> Self {
        let piece = || Piece::of(1_000);
        Self { read: piece(), write: piece(), browse: Piece::of(100), monitor: piece(), history: Piece::of(100), call: Piece::of(100) }
    }
}

/// Asks a service about a list, in pieces: `$ask` is a future of as many results as there are items in `$now`.
macro_rules! in_pieces {
    ($session:expr, $service:literal, $items:expr, $piece:expr, |$now:ident| $ask:expr) => {{
        let (items, piece) = ($items, &$piece);
        let mut results = Vec::with_capacity(items.len());
        while results.len() < items.len() {
            let rest = &items[results.len()..];
            let $now = &rest[..rest.len().min(piece.get())];
            let answer = $ask.await;
            results.extend($session.taken($service, $now.len(), piece, answer)?);
        }
        Ok(results)
    }};
}
pub(crate) use in_pieces;

/// What of a session outlives its connection: with it, the next connection goes on with the same session and its subscriptions.
#[derive(Clone)]
pub struct Kept {
    pub session_id: NodeId,
    pub(crate) token: NodeId,
    pub(crate) nonce: ByteString,
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

/// An activated session on an open channel.
pub struct Session {
    channel: Channel,
    kept: Kept,
    is_resumed: AtomicBool,
    pub limits: Limits,
    space: parking_lot::RwLock<Arc<Space>>,
    within: Duration,
}

impl Session {
    pub(crate) fn new(channel: Channel, kept: Kept, is_resumed: bool, within: Duration) -> Self {
        Self { channel, kept, is_resumed: is_resumed.into(), limits: Limits::default(), space: Default::default(), within }
    }

    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether this is the session of an earlier connection, with its subscriptions.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed.load(Relaxed)
    }

    /// Another configuration goes on with it, on the same connection.
    pub fn is_handed_over(&self) {
        self.is_resumed.store(true, Relaxed);
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The namespace table as last read.
    pub fn space(&self) -> Arc<Space> {
        self.space.read().clone()
    }

    /// How long an answer may take.
    pub fn within(&self) -> Duration {
        self.within
    }

    pub fn header(&self) -> RequestHeader {
        self.channel.header(self.within)
    }

    /// Sends any request of this session.
    pub async fn call(&self, service: &'static str, request: impl Into<RequestMessage>) -> Result<ResponseMessage, Refused> {
        self.channel.send(request, self.within).await.map_err(|error| Refused { service, error })
    }

    /// Ends the session on the server, with its subscriptions or without them, then the channel.
    pub async fn close(&self, delete_subscriptions: bool) {
        let request = CloseSessionRequest { request_header: self.header(), delete_subscriptions };
        if let Err(refused) = self.call("CloseSession", request).await {
            tracing::debug!(%refused, "the session was not closed in order");
        }
        self.channel.close().await;
    }

    /// Reads the namespace table and the OperationLimits.
    pub async fn prepare(&self) -> Result<(), Refused> {
        self.read_space().await?;
        let wanted = [
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead, &self.limits.read),
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite, &self.limits.write),
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse, &self.limits.browse),
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall, &self.limits.monitor),
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData, &self.limits.history),
            (VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerMethodCall, &self.limits.call),
        ];
        // One at a time would be six round trips; a server that takes fewer than six at once halves this, as any other read.
        let nodes = wanted.iter().map(|(id, _)| value_of(NodeId::from(*id))).collect::<Vec<_>>();
        let values = self.read(&nodes).await?;
        for ((_, piece), value) in wanted.into_iter().zip(values) {
            if let Some(Variant::UInt32(limit)) = value.value
                && limit > 0
            {
                // Browses and histories answer with more than they are asked; their own sizes stay.
                let most = if std::ptr::eq(piece, &self.limits.browse) || std::ptr::eq(piece, &self.limits.history) {
                    piece.get()
                } else {
                    LARGEST_PIECE
                };
                piece.0.store((limit as usize).min(most), Relaxed);
            }
        }
        Ok(())
    }

    /// Reads the namespace table. Returns whether it is another than before.
    pub async fn read_space(&self) -> Result<bool, Refused> {
        let values = self.read(&[value_of(VariableId::Server_NamespaceArray.into())]).await?;
        let Some(Some(Variant::Array(array))) = values.into_iter().next().map(|value| value.value) else {
            let error = Error::new(StatusCode::BadUnexpectedError, "the server has no NamespaceArray");
            return Err(Refused { service: "Read", error });
        };
        let uris = array.values.iter().map(|uri| if let Variant::String(uri) = uri { uri.as_ref() } else { "" });
        let space = Space::new(uris);
        let mut known = self.space.write();
        let is_other = **known != space;
        *known = Arc::new(space);
        Ok(is_other)
    }

    /// Takes the answer to one piece: its results, or nothing where it has to be asked again in smaller ones.
    pub(crate) fn taken<R>(
        &self,
        service: &'static str,
        asked: usize,
        piece: &Piece,
        answer: Result<Vec<R>, Refused>,
    ) -> Result<Vec<R>, Refused> {
        match answer {
            Ok(some) if some.len() == asked => Ok(some),
            Ok(some) => {
                let what = format!("{} results for {asked} items", some.len());
                Err(Refused { service, error: Error::new(StatusCode::BadUnknownResponse, what) })
            }
            Err(refused) if refused.is_too_large() && self.channel.closed().is_none() && piece.halve(asked) => {
                tracing::info!(service, items = asked, %refused, "the server takes fewer items at once");
                Ok(Vec::new())
            }
            Err(refused) => Err(refused),
        }
    }

    /// Reads attributes, with both times.
    pub async fn read(&self, nodes: &[ReadValueId]) -> Result<Vec<DataValue>, Refused> {
        let values = self.read_raw(nodes).await?;
        let context = context();
        Ok(values.iter().map(|value| value.decoded(&context.context())).collect())
    }

    /// As [`Self::read`]; the values stay as they lie on the wire.
    pub async fn read_raw(&self, nodes: &[ReadValueId]) -> Result<Vec<Raw>, Refused> {
        in_pieces!(self, "Read", nodes, self.limits.read, |nodes| async {
            let request = ReadRequest {
                request_header: self.header(),
                max_age: 0.0,
                timestamps_to_return: TimestampsToReturn::Both,
                nodes_to_read: Some(nodes.to_vec()),
            };
            match self.call("Read", request).await? {
                ResponseMessage::Read(answer) => answer::values(&answer).map_err(|error| Refused { service: "Read", error }),
                other => Err(Refused { service: "Read", error: unexpected(&other) }),
            }
        })
    }

    pub async fn write(&self, _: Permission, values: &[WriteValue]) -> Result<Vec<StatusCode>, Refused> {
        in_pieces!(self, "Write", values, self.limits.write, |values| async {
            let request = WriteRequest { request_header: self.header(), nodes_to_write: Some(values.to_vec()) };
            match self.call("Write", request).await? {
                ResponseMessage::Write(answer) => Ok(answer.results.unwrap_or_default()),
                other => Err(Refused { service: "Write", error: unexpected(&other) }),
            }
        })
    }

    pub async fn methods(&self, _: Permission, calls: &[CallMethodRequest]) -> Result<Vec<CallMethodResult>, Refused> {
        in_pieces!(self, "Call", calls, self.limits.call, |calls| async {
            let request = CallRequest { request_header: self.header(), methods_to_call: Some(calls.to_vec()) };
            match self.call("Call", request).await? {
                ResponseMessage::Call(answer) => Ok(answer.results.unwrap_or_default()),
                other => Err(Refused { service: "Call", error: unexpected(&other) }),
            }
        })
    }

    /// The forward references of each node, all of them, by continuation points. A node that can't be browsed has a bad status.
    pub async fn browse(&self, nodes: &[BrowseDescription]) -> Result<Vec<Result<Vec<ReferenceDescription>, StatusCode>>, Refused> {
        in_pieces!(self, "Browse", nodes, self.limits.browse, |nodes| async {
            let request = BrowseRequest {
                request_header: self.header(),
                view: Default::default(),
                requested_max_references_per_node: 0,
                nodes_to_browse: Some(nodes.to_vec()),
            };
            let answer = match self.call("Browse", request).await? {
                ResponseMessage::Browse(answer) => answer.results.unwrap_or_default(),
                other => return Err(Refused { service: "Browse", error: unexpected(&other) }),
            };
            let mut found = Vec::with_capacity(answer.len());
            for result in answer {
                found.push(self.browse_on(result).await?);
            }
            Ok(found)
        })
    }

    async fn browse_on(&self, mut result: BrowseResult) -> Result<Result<Vec<ReferenceDescription>, StatusCode>, Refused> {
        if result.status_code.is_bad() {
            return Ok(Err(result.status_code));
        }
        let mut references = result.references.take().unwrap_or_default();
        while !result.continuation_point.is_null_or_empty() {
            let point = std::mem::take(&mut result.continuation_point);
            result = self.browse_next(point).await?;
            let more = result.references.take().unwrap_or_default();
            // A server that goes on without anything to say would go on for ever.
            if result.status_code.is_bad() || more.is_empty() {
                break;
            }
            references.extend(more);
        }
        Ok(Ok(references))
    }

    async fn browse_next(&self, point: ByteString) -> Result<BrowseResult, Refused> {
        let request =
            BrowseNextRequest { request_header: self.header(), release_continuation_points: false, continuation_points: Some(vec![point]) };
        match self.call("BrowseNext", request).await? {
            ResponseMessage::BrowseNext(answer) => Ok(answer.results.unwrap_or_default().pop().unwrap_or_default()),
            other => Err(Refused { service: "BrowseNext", error: unexpected(&other) }),
        }
    }
}

/// The value of a node, to be read.
pub fn value_of(node_id: NodeId) -> ReadValueId {
    attribute_of(node_id, AttributeId::Value)
}

pub fn attribute_of(node_id: NodeId, attribute: AttributeId) -> ReadValueId {
    ReadValueId { node_id, attribute_id: attribute as u32, ..Default::default() }
}

/// Everything below a node along hierarchical references, to be browsed.
pub fn children_of(node_id: NodeId) -> BrowseDescription {
    references_of(node_id, ReferenceTypeId::HierarchicalReferences)
}

pub fn references_of(node_id: NodeId, kind: ReferenceTypeId) -> BrowseDescription {
    BrowseDescription {
        node_id,
        browse_direction: BrowseDirection::Forward,
        reference_type_id: kind.into(),
        include_subtypes: true,
        node_class_mask: 0,
        result_mask: 0x3F,
    }
}
