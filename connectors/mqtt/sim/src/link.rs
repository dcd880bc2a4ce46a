//! A device's connection to the broker: the connector's own client, with a short keep-alive.

use millrace_kit::Tls;
use millrace_mqtt::packet::{Ack, AckKind, Message, Packet, Qos, Version, Will, write_publish, write_subscribe};
use millrace_mqtt::session::{Inbound, Opening, Session, Step};
use millrace_mqtt::transport::Endpoint;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How soon a device notices a dead connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
pub const RETRY: Duration = Duration::from_millis(250);
/// Unacknowledged messages at a time.
const WINDOW: usize = 20;

pub struct Link {
    session: Session,
    last_id: u16,
    /// Of messages that wait for their PUBACK, oldest first.
    in_flight: VecDeque<u16>,
}

/// What a device learns of its connection.
pub enum News<T> {
    /// The work that was done alongside.
    Done(T),
    /// So many of the oldest messages in flight are acknowledged.
    Acknowledged(usize),
    Message {
        topic: String,
        payload: Vec<u8>,
    },
}

/// The connection is over.
pub struct Lost;

impl Link {
    /// Tries until it is connected.
    pub async fn open(endpoint: &str, client_id: &str, will: Will) -> Self {
        let endpoint = Endpoint::parse(endpoint).expect("a bound address is an endpoint");
        let opening = Opening {
            endpoint,
            tls: Tls::default(),
            version: Version::V5,
            client_id: client_id.to_owned(),
            login: None,
            keep_alive: KEEP_ALIVE,
            clean_start: true,
            session_expiry: Duration::ZERO,
            receive_maximum: 100,
            max_packet: 1 << 20,
            will: Some(will),
            answered: Arc::default(),
        };
        loop {
            match tokio::time::timeout(KEEP_ALIVE, Session::open(&opening)).await {
                Ok(Ok(session)) => return Self { session, last_id: 0, in_flight: VecDeque::new() },
                _ => tokio::time::sleep(RETRY).await,
            }
        }
    }

    fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    pub fn subscribe(&mut self, filter: &str) {
        let id = self.next_id();
        write_subscribe(&mut self.session.line.out, Version::V5, id, filter, Qos::AtLeastOnce, 0);
    }

    /// How many messages of QoS 1 wait for their acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn has_room(&self) -> bool {
        self.in_flight.len() < WINDOW && self.session.line.backlog() < 1 << 20
    }

    /// Publishes; `dup` where an earlier connection may have done so already.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: Qos, retain: bool, dup: bool) {
        let id = if qos == Qos::AtMostOnce { 0 } else { self.next_id() };
        let start = self.session.line.out.len();
        write_publish(&mut self.session.line.out, Version::V5, &Message { topic, payload, qos, retain, properties: &[] }, id);
        self.session.line.out[start] |= u8::from(dup) << 3;
        if id != 0 {
            self.in_flight.push_back(id);
        }
    }

    /// Does `work`, which must be cancel-safe, while the connection lives; returns on whatever comes first.
    pub async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<News<T>, Lost> {
        if let Some(news) = self.heard()? {
            return Ok(news);
        }
        let mut work = std::pin::pin!(work);
        loop {
            match self.session.alongside(true, &mut work).await.map_err(|_| Lost)? {
                Step::Done(done) => return Ok(News::Done(done)),
                Step::Read => {
                    if let Some(news) = self.heard()? {
                        return Ok(news);
                    }
                }
            }
        }
    }

    /// The next packet in the inbox that means something to a device.
    fn heard<T>(&mut self) -> Result<Option<News<T>>, Lost> {
        let mut acknowledged = 0;
        loop {
            match self.session.inbox.next(Version::V5).map_err(|_| Lost)? {
                Some(Inbound::Packet(Packet::Ack(Ack { kind: AckKind::Puback, id, .. }))) => {
                    // Our broker acknowledges in order.
                    if self.in_flight.front() == Some(&id) {
                        self.in_flight.pop_front();
                        acknowledged += 1;
                    }
                }
                Some(Inbound::Packet(Packet::Publish(publish))) if acknowledged == 0 => {
                    let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_vec());
                    if publish.qos == Qos::AtLeastOnce {
                        let id = publish.id;
                        millrace_mqtt::packet::write_ack(&mut self.session.line.out, AckKind::Puback, id);
                    }
                    return Ok(Some(News::Message { topic, payload }));
                }
                Some(Inbound::Packet(Packet::Publish(_))) => {
                    self.session.inbox.put_back();
                    return Ok(Some(News::Acknowledged(acknowledged)));
                }
                Some(Inbound::Packet(Packet::Disconnect(_))) => return Err(Lost),
                Some(_) => {}
                None => return Ok((acknowledged > 0).then_some(News::Acknowledged(acknowledged))),
            }
        }
    }

    /// Says goodbye: no will is published.
    pub async fn close(self) {
        self.session.close(0, None).await;
    }
}
