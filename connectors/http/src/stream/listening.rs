//! What every stream has, whatever it speaks: a connection of its own, which ends when it fails, when another one does, or when the engine stops.

use super::config::{Settings, Stream};
use async_trait::async_trait;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Failure, Guarantee, Model, Plan, Source, SourceIo};
use millrace_kit::connections::{Connection, Connections, Others};
use millrace_kit::http::Client;
use millrace_kit::records::Records;
use millrace_schemas::Origin;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

/// What a server is listened to by.
pub trait Protocol: Send + Sync + Sized + 'static {
    /// A stream's own keys.
    type Keys: Send + Sync + 'static;
    /// Why it is at most once.
    const BECAUSE: &'static str;
    /// Whether it goes on where it was.
    const KEEPS_POSITIONS: bool;

    /// Connects, and takes what comes until it fails.
    fn listen(listener: &mut Listener<Self>, io: &SourceIo) -> impl Future<Output = Failure> + Send;
}

/// Streams of one server, compiled.
pub struct CompiledStreams<P: Protocol>(Arc<Settings<P::Keys>>);

impl<P: Protocol> CompiledStreams<P> {
    pub fn new(settings: Settings<P::Keys>) -> Self {
        Self(Arc::new(settings))
    }
}

impl<P: Protocol> Compiled for CompiledStreams<P> {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Listening::<P> { settings: self.0.clone(), connections: Connections::default() }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce(P::BECAUSE.into())
    }

    fn keeps_positions(&self) -> bool {
        P::KEEPS_POSITIONS
    }

    fn plan(&self) -> Plan {
        Plan { endpoint: self.0.endpoint.url.to_string(), lines: self.0.streams.iter().map(|stream| stream.line()).collect(), rate: None }
    }
}

struct Listening<P: Protocol> {
    settings: Arc<Settings<P::Keys>>,
    connections: Connections<Listener<P>>,
}

#[async_trait]
impl<P: Protocol> Source for Listening<P> {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let client = Arc::new(self.settings.endpoint.client()?);
        let make = |number: usize| Listener {
            settings: self.settings.clone(),
            stream: self.settings.streams[number].clone(),
            client: client.clone(),
            records: Records::new(Origin::Event, self.settings.max_tags),
            protocol: PhantomData,
        };
        self.connections.run(self.settings.streams.len(), &io, make).await
    }
}

/// One stream, and what it needs.
pub struct Listener<P: Protocol> {
    pub settings: Arc<Settings<P::Keys>>,
    pub stream: Arc<Stream<P::Keys>>,
    pub client: Arc<Client>,
    pub records: Records,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Listener<P> {
    /// Bytes of one message or event, at most.
    pub fn most(&self) -> usize {
        usize::try_from(self.settings.endpoint.options.max_body.0).unwrap_or(usize::MAX)
    }
}

impl<P: Protocol> Connection for Listener<P> {
    async fn run(&mut self, io: &SourceIo, mut others: Others) -> Failure {
        tokio::select! {
            biased;
            () = io.stopping() => Failure::Stopped,
            () = others.ended() => Failure::Stopped,
            failure = P::listen(self, io) => failure,
        }
    }
}
