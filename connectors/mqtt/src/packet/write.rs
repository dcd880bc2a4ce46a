//! Writing packets.

use super::read::*;

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
