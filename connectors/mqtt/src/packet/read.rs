//! Reading packets: nothing is copied, and no length is believed before it is checked.

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

    /// The same message with another payload: what is in this one.
    pub const fn with_payload<'b>(&self, payload: &'b [u8]) -> Publish<'b>
    where
        'a: 'b,
    {
        Publish { payload, topic: self.topic, properties: self.properties, id: self.id, qos: self.qos, dup: self.dup, retain: self.retain }
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
    let mut connack = Connack { session_present: flags & 1 != 0, code: rest.u8()?, subscription_ids_available: v5, ..Connack::default() };
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
pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
pub(super) const AUTHENTICATION_METHOD: u8 = 21;
pub(super) const AUTHENTICATION_DATA: u8 = 22;
pub(super) const REQUEST_PROBLEM: u8 = 23;
pub const WILL_DELAY: u8 = 24;
pub(super) const REQUEST_RESPONSE: u8 = 25;
pub(super) const RESPONSE_INFORMATION: u8 = 26;
pub(super) const SERVER_REFERENCE: u8 = 28;
pub const REASON_STRING: u8 = 31;
pub const RECEIVE_MAXIMUM: u8 = 33;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub const TOPIC_ALIAS: u8 = 35;
pub(super) const MAXIMUM_QOS: u8 = 36;
pub(super) const RETAIN_AVAILABLE: u8 = 37;
pub const USER_PROPERTY: u8 = 38;
pub const MAXIMUM_PACKET: u8 = 39;
pub(super) const WILDCARDS_AVAILABLE: u8 = 40;
pub(super) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 41;
pub(super) const SHARED_AVAILABLE: u8 = 42;

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

impl Default for Connack {
    fn default() -> Self {
        Self {
            session_present: false,
            code: 0,
            receive_maximum: u16::MAX,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            maximum_packet: None,
            assigned_client_id: None,
            server_keep_alive_s: None,
            session_expiry_s: None,
            wildcards_available: true,
            subscription_ids_available: true,
            shared_available: true,
            reason: None,
            server_reference: None,
        }
    }
}
