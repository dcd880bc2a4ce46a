//! MQTT control packets on the wire, of both versions: what a client receives, borrowed from the read buffer, and what it sends, appended to a buffer.
//!
//! ```text
//! packet   type and flags (1) | remaining length (1 to 4, seven bits each, least first) | variable header | payload
//! text     length (2, big-endian) | UTF-8, no NUL          properties (5 only)   length (variable) | (identifier, value)*
//! ```
//!
//! Reading allocates nothing and copies nothing: a PUBLISH is its topic, its property bytes and its payload, where they lie. Lengths are checked
//! against what is there before anything is believed. Packets only a server receives are not read here; `sim` does that with the same pieces.
//!
//! Source: OASIS MQTT 3.1.1 and MQTT 5.0; sections are those of 5.0.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// 3.1.1.
    V4,
    V5,
}

/// Quality of service: at most once, at least once, exactly once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Qos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl Qos {
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Bytes that are no MQTT: what was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed {packet}: {what}")]
pub struct Malformed {
    pub packet: &'static str,
    pub what: &'static str,
}

const fn malformed<T>(packet: &'static str, what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { packet, what })
}

/// The fixed header of a packet whose first bytes are in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub first: u8,
    /// Bytes of the fixed header: 2 to 5.
    pub header: usize,
    /// Bytes that follow it: at most 268,435,455.
    pub remaining: usize,
}

impl Frame {
    /// Reads a fixed header; `None` while it is not whole yet.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        match varint(rest, "packet")? {
            Some((remaining, len)) => Ok(Some(Self { first, header: 1 + len, remaining: remaining as usize })),
            None => Ok(None),
        }
    }

    /// The whole packet's length.
    pub const fn len(&self) -> usize {
        self.header + self.remaining
    }

    pub const fn is_empty(&self) -> bool {
        false
    }

    pub const fn is_publish(&self) -> bool {
        self.first >> 4 == 3
    }
}

/// A variable byte integer and its length; `None` while it is not whole yet. Section 1.5.5.
#[inline]
fn varint(bytes: &[u8], packet: &'static str) -> Result<Option<(u32, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= ((byte & 0x7F) as u32) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { malformed(packet, "a length of more than four bytes") } else { Ok(None) }
}

/// A packet a client receives.
#[derive(Clone, PartialEq, Debug)]
pub enum Packet<'a> {
    Connack(Connack),
    Publish(Publish<'a>),
    Ack(Ack<'a>),
    Suback(Suback<'a>),
    Unsuback {
        id: u16,
    },
    Pingresp,
    Disconnect(Disconnect),
    /// Enhanced authentication, which we never ask for.
    Auth {
        code: u8,
    },
}

/// A message, borrowed from the read buffer. Section 3.3.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Publish<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// MQTT 5 only; see [`Publish::properties`].
    properties: &'a [u8],
    /// Zero with QoS 0.
    pub id: u16,
    pub qos: Qos,
    pub dup: bool,
    pub retain: bool,
}

impl<'a> Publish<'a> {
    /// A message without properties; for tests and for what is made here.
    pub const fn plain(topic: &'a str, payload: &'a [u8], retain: bool) -> Self {
        Self { topic, payload, properties: &[], id: 0, qos: Qos::AtMostOnce, dup: false, retain }
    }

    /// Reads the body of a PUBLISH, properties unread: they are checked when iterated.
    #[inline]
    pub fn read(first: u8, body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        const PUBLISH: &str = "PUBLISH";
        let Some(qos) = Qos::from_bits(first >> 1 & 3) else { return malformed(PUBLISH, "QoS 3") };
        let mut rest = Reader { bytes: body, packet: PUBLISH };
        let topic = rest.text()?;
        let id = match qos {
            Qos::AtMostOnce => 0,
            _ => match rest.u16()? {
                0 => return malformed(PUBLISH, "packet identifier 0"),
                id => id,
            },
        };
        let properties = match version {
            Version::V4 => &[][..],
            Version::V5 => rest.properties()?,
        };
        if topic.is_empty() {
            return malformed(PUBLISH, "an empty topic, though no topic alias was allowed");
        }
        if memchr::memchr2(b'+', b'#', topic.as_bytes()).is_some() {
            return malformed(PUBLISH, "a wildcard in its topic");
        }
        Ok(Self { topic, payload: rest.bytes, properties, id, qos, dup: first & 8 != 0, retain: first & 1 != 0 })
    }

    /// Its properties in order; ends at the first malformed one.
    pub const fn properties(&self) -> Properties<'a> {
        Properties { rest: Reader { bytes: self.properties, packet: "PUBLISH" } }
    }

    /// Its properties as they lie there.
    pub const fn property_bytes(&self) -> &'a [u8] {
        self.properties
    }

    pub const fn has_properties(&self) -> bool {
        !self.properties.is_empty()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. Sections 3.4 to 3.7.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ack<'a> {
    pub kind: AckKind,
    pub id: u16,
    pub code: u8,
    pub reason: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AckKind {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// The answer to CONNECT. Section 3.2. Of 3.1.1, the properties have the values that version implies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connack {
    pub session_present: bool,
    pub code: u8,
    pub receive_maximum: u16,
    pub maximum_qos: Qos,
    pub retain_available: bool,
    pub maximum_packet: Option<u32>,
    pub assigned_client_id: Option<Box<str>>,
    pub server_keep_alive_s: Option<u16>,
    pub session_expiry_s: Option<u32>,
    pub wildcards_available: bool,
    pub subscription_ids_available: bool,
    pub shared_available: bool,
    pub reason: Option<Box<str>>,
    /// Another server to use, where it says so.
    pub server_reference: Option<Box<str>>,
}

/// The answer to SUBSCRIBE: one code for each filter. Section 3.9.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Suback<'a> {
    pub id: u16,
    pub codes: &'a [u8],
    pub reason: Option<&'a str>,
}

/// The server ends the connection (5 only). Section 3.14.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disconnect {
    pub code: u8,
    pub reason: Option<Box<str>>,
    pub server_reference: Option<Box<str>>,
}

impl<'a> Packet<'a> {
    /// Reads a packet whose fixed header is `frame` from its remaining bytes.
    pub fn read(frame: Frame, body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let kind = frame.first >> 4;
        let name = match kind {
            2 => "CONNACK",
            3 => return Publish::read(frame.first, body, version).map(Self::Publish),
            4 => "PUBACK",
            5 => "PUBREC",
            6 => "PUBREL",
            7 => "PUBCOMP",
            9 => "SUBACK",
            11 => "UNSUBACK",
            13 => "PINGRESP",
            14 => "DISCONNECT",
            15 => "AUTH",
            _ => return malformed("packet", "a type that only clients send, or none at all"),
        };
        let flags = frame.first & 0x0F;
        if flags != if kind == 6 { 2 } else { 0 } {
            return malformed(name, "wrong flags");
        }
        let mut rest = Reader { bytes: body, packet: name };
        let v5 = version == Version::V5;
        Ok(match kind {
            2 => Self::Connack(connack(rest, v5)?),
            4..=7 => {
                let id = rest.u16()?;
                let code = if v5 && !rest.bytes.is_empty() { rest.u8()? } else { 0 };
                let reason = if v5 && !rest.bytes.is_empty() { reason(&mut rest)? } else { None };
                let kind = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp][kind as usize - 4];
                Self::Ack(Ack { kind, id, code, reason })
            }
            9 => {
                let id = rest.u16()?;
                let reason = if v5 { reason(&mut rest)? } else { None };
                Self::Suback(Suback { id, codes: rest.bytes, reason })
            }
            11 => Self::Unsuback { id: rest.u16()? },
            13 => Self::Pingresp,
            14 => {
                let code = if rest.bytes.is_empty() { 0 } else { rest.u8()? };
                let mut disconnect = Disconnect { code, reason: None, server_reference: None };
                if !rest.bytes.is_empty() {
                    for property in (Properties { rest: Reader { bytes: rest.properties()?, packet: name } }) {
                        match property {
                            Property::Text(REASON_STRING, text) => disconnect.reason = Some(text.into()),
                            Property::Text(SERVER_REFERENCE, text) => disconnect.server_reference = Some(text.into()),
                            _ => {}
                        }
                    }
                }
                Self::Disconnect(disconnect)
            }
            _ => Self::Auth { code: if rest.bytes.is_empty() { 0 } else { rest.u8()? } },
        })
    }
}

fn connack(mut rest: Reader<'_>, v5: bool) -> Result<Connack, Malformed> {
    let flags = rest.u8()?;
    let mut connack = Connack {
        session_present: flags & 1 != 0,
        code: rest.u8()?,
        receive_maximum: u16::MAX,
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        maximum_packet: None,
        assigned_client_id: None,
        server_keep_alive_s: None,
        session_expiry_s: None,
        wildcards_available: true,
        subscription_ids_available: v5,
        shared_available: true,
        reason: None,
        server_reference: None,
    };
    if v5 && !rest.bytes.is_empty() {
        for property in (Properties { rest: Reader { bytes: rest.properties()?, packet: "CONNACK" } }) {
            match property {
                Property::Four(SESSION_EXPIRY, seconds) => connack.session_expiry_s = Some(seconds),
                Property::Two(RECEIVE_MAXIMUM, count) => connack.receive_maximum = count.max(1),
                Property::One(MAXIMUM_QOS, qos) => connack.maximum_qos = Qos::from_bits(qos).unwrap_or(Qos::ExactlyOnce),
                Property::One(RETAIN_AVAILABLE, flag) => connack.retain_available = flag != 0,
                Property::Four(MAXIMUM_PACKET, bytes) => connack.maximum_packet = Some(bytes),
                Property::Text(ASSIGNED_CLIENT_ID, id) => connack.assigned_client_id = Some(id.into()),
                Property::Two(SERVER_KEEP_ALIVE, seconds) => connack.server_keep_alive_s = Some(seconds),
                Property::One(WILDCARDS_AVAILABLE, flag) => connack.wildcards_available = flag != 0,
                Property::One(SUBSCRIPTION_IDS_AVAILABLE, flag) => connack.subscription_ids_available = flag != 0,
                Property::One(SHARED_AVAILABLE, flag) => connack.shared_available = flag != 0,
                Property::Text(REASON_STRING, text) => connack.reason = Some(text.into()),
                Property::Text(SERVER_REFERENCE, text) => connack.server_reference = Some(text.into()),
                _ => {}
            }
        }
    }
    Ok(connack)
}

/// The reason string among the properties that follow.
fn reason<'a>(rest: &mut Reader<'a>) -> Result<Option<&'a str>, Malformed> {
    let packet = rest.packet;
    let found = Properties { rest: Reader { bytes: rest.properties()?, packet } }.find_map(|property| match property {
        Property::Text(REASON_STRING, text) => Some(text),
        _ => None,
    });
    Ok(found)
}

// Property identifiers, section 2.2.2.2.
pub const PAYLOAD_FORMAT: u8 = 1;
pub const MESSAGE_EXPIRY: u8 = 2;
pub const CONTENT_TYPE: u8 = 3;
pub const RESPONSE_TOPIC: u8 = 8;
pub const CORRELATION_DATA: u8 = 9;
pub const SUBSCRIPTION_ID: u8 = 11;
pub const SESSION_EXPIRY: u8 = 17;
pub const ASSIGNED_CLIENT_ID: u8 = 18;
const SERVER_KEEP_ALIVE: u8 = 19;
const AUTHENTICATION_METHOD: u8 = 21;
const AUTHENTICATION_DATA: u8 = 22;
const REQUEST_PROBLEM: u8 = 23;
pub const WILL_DELAY: u8 = 24;
const REQUEST_RESPONSE: u8 = 25;
const RESPONSE_INFORMATION: u8 = 26;
const SERVER_REFERENCE: u8 = 28;
pub const REASON_STRING: u8 = 31;
pub const RECEIVE_MAXIMUM: u8 = 33;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub const TOPIC_ALIAS: u8 = 35;
const MAXIMUM_QOS: u8 = 36;
const RETAIN_AVAILABLE: u8 = 37;
pub const USER_PROPERTY: u8 = 38;
pub const MAXIMUM_PACKET: u8 = 39;
const WILDCARDS_AVAILABLE: u8 = 40;
const SUBSCRIPTION_IDS_AVAILABLE: u8 = 41;
const SHARED_AVAILABLE: u8 = 42;

/// A property by the shape of its value, with its identifier.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Property<'a> {
    One(u8, u8),
    Two(u8, u16),
    Four(u8, u32),
    Var(u8, u32),
    Text(u8, &'a str),
    Bytes(u8, &'a [u8]),
    User(&'a str, &'a str),
}

/// Properties as they lie in a packet. Section 2.2.2.
#[derive(Clone, Copy, Debug)]
pub struct Properties<'a> {
    rest: Reader<'a>,
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        let property = self.rest.property().ok();
        if property.is_none() {
            self.rest.bytes = &[];
        }
        property
    }
}

/// Takes a packet's body apart, field by field; every length is compared with what is there.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    packet: &'static str,
}

impl<'a> Reader<'a> {
    /// `packet` is its name, for errors.
    pub const fn new(bytes: &'a [u8], packet: &'static str) -> Self {
        Self { bytes, packet }
    }

    /// What is not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    fn short<T>(&self) -> Result<T, Malformed> {
        malformed(self.packet, "shorter than its own lengths say")
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let Some((&byte, rest)) = self.bytes.split_first() else { return self.short() };
        self.bytes = rest;
        Ok(byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let Some((bytes, rest)) = self.bytes.split_first_chunk() else { return self.short() };
        self.bytes = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let Some((bytes, rest)) = self.bytes.split_first_chunk() else { return self.short() };
        self.bytes = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn var(&mut self) -> Result<u32, Malformed> {
        let Some((value, len)) = varint(self.bytes, self.packet)? else { return self.short() };
        self.bytes = &self.bytes[len..];
        Ok(value)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let Some((head, rest)) = self.bytes.split_at_checked(len) else { return self.short() };
        self.bytes = rest;
        Ok(head)
    }

    /// A length of two bytes, and so many bytes.
    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(len as usize)
    }

    /// A text: UTF-8 without NUL.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.blob()?;
        match std::str::from_utf8(bytes) {
            Ok(text) if memchr::memchr(0, bytes).is_none() => Ok(text),
            Ok(_) => malformed(self.packet, "a text with a NUL character"),
            Err(_) => malformed(self.packet, "a text that is not UTF-8"),
        }
    }

    /// The bytes of the properties.
    #[inline]
    pub fn properties(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.var()?;
        self.take(len as usize)
    }

    pub fn property(&mut self) -> Result<Property<'a>, Malformed> {
        let id = self.u8()?;
        Ok(match id {
            PAYLOAD_FORMAT
            | REQUEST_PROBLEM
            | REQUEST_RESPONSE
            | MAXIMUM_QOS
            | RETAIN_AVAILABLE
            | WILDCARDS_AVAILABLE
            | SUBSCRIPTION_IDS_AVAILABLE
            | SHARED_AVAILABLE => Property::One(id, self.u8()?),
            SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => Property::Two(id, self.u16()?),
            MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET => Property::Four(id, self.u32()?),
            SUBSCRIPTION_ID => Property::Var(id, self.var()?),
            CONTENT_TYPE
            | RESPONSE_TOPIC
            | ASSIGNED_CLIENT_ID
            | AUTHENTICATION_METHOD
            | RESPONSE_INFORMATION
            | SERVER_REFERENCE
            | REASON_STRING => Property::Text(id, self.text()?),
            CORRELATION_DATA | AUTHENTICATION_DATA => Property::Bytes(id, self.blob()?),
            USER_PROPERTY => Property::User(self.text()?, self.text()?),
            _ => return malformed(self.packet, "an unknown property"),
        })
    }
}

// ---- what a client sends

/// Opens a session. Section 3.1.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    pub client_id: &'a str,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    pub login: Option<(&'a str, &'a str)>,
    pub will: Option<&'a Will>,
    /// How long the server keeps the session after the connection (5 only).
    pub session_expiry_s: u32,
    /// How many unacknowledged messages the server may send (5 only).
    pub receive_maximum: u16,
}

/// A message the server publishes when this client vanishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
}

/// A message to publish, with what it carries beside its payload.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: Qos,
    pub retain: bool,
    /// 5 only; see [`push_user_property`] and its siblings.
    pub properties: &'a [u8],
}

impl Connect<'_> {
    pub fn write(&self, out: &mut Vec<u8>, version: Version) {
        packet(out, 0x10, |out| {
            push_text(out, "MQTT");
            out.push(match version {
                Version::V4 => 4,
                Version::V5 => 5,
            });
            let mut flags = (self.clean_start as u8) << 1;
            if let Some(will) = self.will {
                flags |= 4 | (will.qos as u8) << 3 | (will.retain as u8) << 5;
            }
            if self.login.is_some() {
                flags |= 0xC0;
            }
            out.push(flags);
            out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
            if version == Version::V5 {
                let mut properties = vec![SESSION_EXPIRY];
                properties.extend_from_slice(&self.session_expiry_s.to_be_bytes());
                properties.push(RECEIVE_MAXIMUM);
                properties.extend_from_slice(&self.receive_maximum.max(1).to_be_bytes());
                push_var(out, properties.len());
                out.extend_from_slice(&properties);
            }
            push_text(out, self.client_id);
            if let Some(will) = self.will {
                if version == Version::V5 {
                    out.push(0);
                }
                push_text(out, &will.topic);
                push_blob(out, &will.payload);
            }
            if let Some((user, password)) = self.login {
                push_text(out, user);
                push_blob(out, password.as_bytes());
            }
        });
    }
}

/// Appends a SUBSCRIBE for one filter. `id` of the subscription: 0 for none (5 only). Section 3.8.
pub fn write_subscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filter: &str, qos: Qos, subscription_id: u32) {
    packet(out, 0x82, |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        if version == Version::V5 {
            let mut properties = Vec::new();
            if subscription_id != 0 {
                properties.push(SUBSCRIPTION_ID);
                push_var(&mut properties, subscription_id as usize);
            }
            push_var(out, properties.len());
            out.extend_from_slice(&properties);
        }
        push_text(out, filter);
        // Retain handling 1 (5 only): retained messages come with a new subscription, not when it is there already.
        out.push(qos as u8 | if version == Version::V5 { 0x10 } else { 0 });
    });
}

/// Appends an UNSUBSCRIBE for one filter. Section 3.10.
pub fn write_unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filter: &str) {
    packet(out, 0xA2, |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        if version == Version::V5 {
            out.push(0);
        }
        push_text(out, filter);
    });
}

/// Appends a PUBLISH; `id` is ignored with QoS 0. Section 3.3.
pub fn write_publish(out: &mut Vec<u8>, version: Version, message: &Message<'_>, id: u16) {
    let first = 0x30 | (message.qos as u8) << 1 | message.retain as u8;
    out.push(first);
    push_var(out, publish_len(version, message));
    push_text(out, message.topic);
    if message.qos != Qos::AtMostOnce {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        push_var(out, message.properties.len());
        out.extend_from_slice(message.properties);
    }
    out.extend_from_slice(message.payload);
}

/// The remaining length of a PUBLISH; the packet is at most five bytes longer.
pub fn publish_len(version: Version, message: &Message<'_>) -> usize {
    let id = if message.qos == Qos::AtMostOnce { 0 } else { 2 };
    let properties = match version {
        Version::V4 => 0,
        Version::V5 => var_len(message.properties.len()) + message.properties.len(),
    };
    2 + message.topic.len() + id + properties + message.payload.len()
}

/// The largest remaining length there is: 256 MiB less one byte.
pub const LARGEST: usize = 268_435_455;

/// Appends an acknowledgement that says success.
#[inline]
pub fn write_ack(out: &mut Vec<u8>, kind: AckKind, id: u16) {
    let first = (kind as u8) << 4 | if matches!(kind, AckKind::Pubrel) { 2 } else { 0 };
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// Appends a PINGREQ.
pub fn write_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a DISCONNECT. `code` and the session's expiry reach the server with 5 only.
pub fn write_disconnect(out: &mut Vec<u8>, version: Version, code: u8, session_expiry_s: Option<u32>) {
    match (version, session_expiry_s) {
        (Version::V4, _) => out.extend_from_slice(&[0xE0, 0]),
        (Version::V5, None) => out.extend_from_slice(&[0xE0, 2, code, 0]),
        (Version::V5, Some(seconds)) => {
            out.extend_from_slice(&[0xE0, 7, code, 5, SESSION_EXPIRY]);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
    }
}

/// Appends a user property. Key and value are cut at 65,535 bytes.
pub fn push_user_property(properties: &mut Vec<u8>, key: &str, value: &str) {
    properties.push(USER_PROPERTY);
    push_text(properties, key);
    push_text(properties, value);
}

/// Appends a text property: [`CONTENT_TYPE`] or [`RESPONSE_TOPIC`].
pub fn push_text_property(properties: &mut Vec<u8>, id: u8, text: &str) {
    properties.push(id);
    push_text(properties, text);
}

/// Appends correlation data.
pub fn push_correlation_data(properties: &mut Vec<u8>, data: &[u8]) {
    properties.push(CORRELATION_DATA);
    push_blob(properties, data);
}

/// Appends how many seconds the message is worth delivering.
pub fn push_message_expiry(properties: &mut Vec<u8>, seconds: u32) {
    properties.push(MESSAGE_EXPIRY);
    properties.extend_from_slice(&seconds.to_be_bytes());
}

/// Appends a packet: its first byte, its length, and what `body` writes.
pub fn packet(out: &mut Vec<u8>, first: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    body(&mut content);
    out.push(first);
    push_var(out, content.len());
    out.append(&mut content);
}

/// Appends a variable byte integer, at most [`LARGEST`].
pub fn push_var(out: &mut Vec<u8>, value: usize) {
    debug_assert!(value <= LARGEST);
    let mut value = value as u32;
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

const fn var_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends a text, cut at 65,535 bytes.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(u16::MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    push_blob(out, &text.as_bytes()[..end]);
}

/// Appends bytes with a length of two bytes, cut at 65,535.
pub fn push_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(u16::MAX as usize)];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A reason code in words, as the standard names it. Section 2.4.
pub fn code_name(code: u8) -> impl fmt::Display {
    let name = match code {
        0x00 => "success",
        0x04 => "disconnect with will",
        0x10 => "no matching subscribers",
        0x11 => "no subscription existed",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    };
    CodeName { name, code }
}

struct CodeName {
    name: &'static str,
    code: u8,
}

impl fmt::Display for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name, self.code)
    }
}

/// Reads whatever is in `bytes`, as both versions, to the end or the first malformed packet; from memory and through an inbox. For fuzzing.
#[doc(hidden)]
pub fn fuzz_mqtt_packet(bytes: &[u8]) {
    for version in [Version::V4, Version::V5] {
        let mut inbox = crate::session::Inbox::new(0);
        inbox.feed(bytes);
        while let Ok(Some(taken)) = inbox.next(version) {
            let taken = format!("{taken:?}");
            inbox.put_back();
            assert_eq!(inbox.next(version).map(|again| format!("{:?}", again.expect("it was just put back"))), Ok(taken));
        }
        let mut rest = bytes;
        while let Ok(Some(frame)) = Frame::read(rest) {
            if rest.len() < frame.len() {
                break;
            }
            let (packet, tail) = rest.split_at(frame.len());
            rest = tail;
            match Packet::read(frame, &packet[frame.header..], version) {
                Ok(Packet::Publish(publish)) => {
                    assert!(!publish.topic.is_empty());
                    assert!(publish.topic.len() + publish.payload.len() <= frame.remaining);
                    publish.properties().for_each(drop);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}
