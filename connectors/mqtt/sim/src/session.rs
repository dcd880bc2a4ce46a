//! What a broker keeps of one client: subscriptions, messages waiting, messages in flight. Pure: no socket, no clock.
//!
//! ```text
//! offer ─> waiting ─(window)─> in flight: PUBLISH ─PUBACK─> done
//!                                         PUBLISH ─PUBREC─> PUBREL ─PUBCOMP─> done
//! resume: everything in flight once more, in its order, marked as a duplicate
//! ```
//!
//! Invariants: at most `Limits::messages` and `Limits::bytes` are held; what does not fit is dropped and counted. Messages of one session go out
//! in the order they were offered. A packet identifier is used again only when its message is done.

use millrace_mqtt::packet::{AckKind, Message, Qos, SUBSCRIPTION_ID, Version, publish_len, push_var, write_ack, write_publish};
use millrace_mqtt::topic::Filter;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// A message as it was published.
#[derive(Debug, PartialEq)]
pub struct Stored {
    pub topic: Box<str>,
    pub payload: Box<[u8]>,
    /// MQTT 5's, as they came.
    pub properties: Box<[u8]>,
}

impl Stored {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        const OVERHEAD: usize = 128;
        self.topic.len() + self.payload.len() + self.properties.len() + OVERHEAD
    }
}

/// A message on its way to one client.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Arc<Stored>,
    pub qos: Qos,
    pub retain: bool,
    /// 0: none.
    pub subscription_id: u32,
}

#[derive(Clone, Debug)]
pub struct Subscription {
    pub filter: Filter,
    /// `$share/NAME/..`: one of the name's sessions gets each message.
    pub share: Option<Box<str>>,
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub subscription_id: u32,
}

/// How much is held for one client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub messages: usize,
    pub bytes: usize,
}

/// How the present connection takes messages.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub version: Version,
    /// Unacknowledged messages at a time.
    pub window: usize,
    /// Longer packets are dropped, as the standard says (MQTT 5.0, section 3.1.2.11.4).
    pub maximum_packet: usize,
}

#[derive(Debug)]
enum Phase {
    Published(Delivery),
    /// PUBREL was sent.
    Released,
}

#[derive(Debug, Default)]
pub struct Session {
    pub subscriptions: Vec<Subscription>,
    waiting: VecDeque<Delivery>,
    /// Of what waits and what is in flight.
    held_bytes: usize,
    in_flight: VecDeque<(u16, Phase)>,
    last_id: u16,
    /// Identifiers of QoS 2 messages that came and are not released.
    received: HashSet<u16>,
    pub dropped: u64,
}

impl Session {
    /// Takes a message on; false where it did not fit.
    pub fn offer(&mut self, delivery: Delivery, limits: Limits) -> bool {
        let bytes = delivery.message.bytes();
        if self.held() >= limits.messages || self.held_bytes + bytes > limits.bytes {
            self.dropped += 1;
            return false;
        }
        self.held_bytes += bytes;
        self.waiting.push_back(delivery);
        true
    }

    /// Messages that wait or are in flight.
    pub fn held(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// The client is away: what nobody asked to keep goes.
    pub fn forget_unkept(&mut self) {
        self.waiting.retain(|delivery| {
            let is_kept = delivery.qos != Qos::AtMostOnce;
            self.held_bytes -= if is_kept { 0 } else { delivery.message.bytes() };
            is_kept
        });
    }

    /// Writes what the window lets out, until `out` holds `until` bytes.
    pub fn write_due(&mut self, out: &mut Vec<u8>, terms: Terms, until: usize) {
        while out.len() < until
            && let Some(next) = self.waiting.front()
        {
            if next.qos != Qos::AtMostOnce && self.in_flight.len() >= terms.window {
                return;
            }
            let Some(delivery) = self.waiting.pop_front() else { return };
            let id = if delivery.qos == Qos::AtMostOnce { 0 } else { self.free_id() };
            let is_written = write(out, &delivery, id, false, terms);
            self.dropped += u64::from(!is_written);
            if is_written && id != 0 {
                self.in_flight.push_back((id, Phase::Published(delivery)));
            } else {
                self.held_bytes -= delivery.message.bytes();
            }
        }
    }

    /// Writes once more what an earlier connection did not finish. Section 4.4.
    pub fn resume(&mut self, out: &mut Vec<u8>, terms: Terms) {
        for (id, phase) in &self.in_flight {
            match phase {
                Phase::Published(delivery) => _ = write(out, delivery, *id, true, terms),
                Phase::Released => write_ack(out, AckKind::Pubrel, *id),
            }
        }
    }

    /// An acknowledgement of the client; PUBREC is answered.
    pub fn acknowledged(&mut self, kind: AckKind, id: u16, refused: bool, out: &mut Vec<u8>) {
        let at = self.in_flight.iter().position(|(known, _)| *known == id);
        let before = match (kind, at) {
            (AckKind::Puback | AckKind::Pubcomp, Some(at)) => self.in_flight.remove(at),
            (AckKind::Pubrec, Some(at)) if refused => self.in_flight.remove(at),
            (AckKind::Pubrec, at) => {
                write_ack(out, AckKind::Pubrel, id);
                at.map(|at| std::mem::replace(&mut self.in_flight[at], (id, Phase::Released)))
            }
            _ => None,
        };
        if let Some((_, Phase::Published(delivery))) = before {
            self.held_bytes -= delivery.message.bytes();
        }
    }

    /// A QoS 2 message came; false where it is one that came before.
    pub fn receives(&mut self, id: u16) -> bool {
        self.received.insert(id)
    }

    /// The client releases a QoS 2 message.
    pub fn released(&mut self, id: u16) {
        self.received.remove(&id);
    }

    /// The next free one. What is in flight lies between the oldest and the last one given: only coming round to the oldest needs a look.
    fn free_id(&mut self) -> u16 {
        let mut came_round = false;
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            came_round |= self.in_flight.front().is_some_and(|(oldest, _)| *oldest == self.last_id);
            if !came_round || !self.in_flight.iter().any(|(id, _)| *id == self.last_id) {
                return self.last_id;
            }
        }
    }
}

/// Writes a PUBLISH; false where the client takes none so long.
fn write(out: &mut Vec<u8>, delivery: &Delivery, id: u16, dup: bool, terms: Terms) -> bool {
    let mut properties = Vec::new();
    if terms.version == Version::V5 {
        properties.extend_from_slice(&delivery.message.properties);
        if delivery.subscription_id != 0 {
            properties.push(SUBSCRIPTION_ID);
            push_var(&mut properties, delivery.subscription_id as usize);
        }
    }
    let message = Message {
        topic: &delivery.message.topic,
        payload: &delivery.message.payload,
        qos: delivery.qos,
        retain: delivery.retain,
        properties: &properties,
    };
    if publish_len(terms.version, &message) + 5 > terms.maximum_packet {
        return false;
    }
    let start = out.len();
    write_publish(out, terms.version, &message, id);
    out[start] |= u8::from(dup) << 3;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_mqtt::packet::{Frame, Packet};

    const TERMS: Terms = Terms { version: Version::V5, window: 2, maximum_packet: usize::MAX };
    const LIMITS: Limits = Limits { messages: 4, bytes: 10_000 };

    fn delivery(payload: &str, qos: Qos) -> Delivery {
        let message = Stored { topic: "t".into(), payload: payload.as_bytes().into(), properties: Box::default() };
        Delivery { message: Arc::new(message), qos, retain: false, subscription_id: 0 }
    }

    /// `payload/id`, `!` in front of a duplicate; acknowledgements by their kind.
    fn said(out: &mut Vec<u8>) -> Vec<String> {
        let mut said = Vec::new();
        let mut rest = &out[..];
        while let Some(frame) = Frame::read(rest).unwrap() {
            let (packet, tail) = rest.split_at(frame.len());
            rest = tail;
            said.push(match Packet::read(frame, &packet[frame.header..], Version::V5).unwrap() {
                Packet::Publish(publish) => {
                    let payload = String::from_utf8_lossy(publish.payload);
                    format!("{}{payload}/{}", if publish.dup { "!" } else { "" }, publish.id)
                }
                Packet::Ack(ack) => format!("{:?}/{}", ack.kind, ack.id),
                other => panic!("{other:?}"),
            });
        }
        out.clear();
        said
    }

    #[test]
    fn the_window_holds_back_and_acknowledgements_open_it() {
        let (mut session, mut out) = (Session::default(), Vec::new());
        for payload in ["a", "b", "c"] {
            assert!(session.offer(delivery(payload, Qos::AtLeastOnce), LIMITS));
        }
        session.write_due(&mut out, TERMS, 1 << 20);
        assert_eq!(said(&mut out), ["a/1", "b/2"]);
        session.acknowledged(AckKind::Puback, 1, false, &mut out);
        session.write_due(&mut out, TERMS, 1 << 20);
        assert_eq!(said(&mut out), ["c/3"]);
        session.resume(&mut out, TERMS);
        assert_eq!(said(&mut out), ["!b/2", "!c/3"]);
    }

    #[test]
    fn qos_2_is_released_and_a_released_message_is_not_sent_again() {
        let (mut session, mut out) = (Session::default(), Vec::new());
        session.offer(delivery("a", Qos::ExactlyOnce), LIMITS);
        session.write_due(&mut out, TERMS, 1 << 20);
        session.acknowledged(AckKind::Pubrec, 1, false, &mut out);
        assert_eq!(said(&mut out), ["a/1", "Pubrel/1"]);
        session.resume(&mut out, TERMS);
        assert_eq!(said(&mut out), ["Pubrel/1"]);
        session.acknowledged(AckKind::Pubcomp, 1, false, &mut out);
        assert_eq!(session.held(), 0);
        assert!(session.receives(5) && !session.receives(5));
        session.released(5);
        assert!(session.receives(5));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (mut session, mut out) = (Session::default(), Vec::new());
        let taken = (0..6).filter(|_| session.offer(delivery("a", Qos::AtMostOnce), LIMITS)).count();
        assert_eq!((taken, session.dropped), (4, 2));
        session.forget_unkept();
        assert_eq!(session.held(), 0);
        assert!(!session.offer(delivery(&"x".repeat(10_000), Qos::AtLeastOnce), LIMITS));
        session.offer(delivery("too long for its client", Qos::AtLeastOnce), LIMITS);
        session.write_due(&mut out, Terms { maximum_packet: 20, ..TERMS }, 1 << 20);
        assert_eq!((out.len(), session.held(), session.dropped), (0, 0, 4));
    }
}
