//! MQTT control packets as a server sees them: what a client sends, borrowed from the read buffer, and what it is answered.
//!
//! Both directions are made of the connector's own pieces (`millrace_mqtt::packet`): one codec, one place where lengths are checked.
//!
//! Source: OASIS MQTT 3.1.1 and MQTT 5.0; sections are those of 5.0.

use millrace_mqtt::packet::{
    ASSIGNED_CLIENT_ID, AckKind, Frame, MAXIMUM_PACKET, Malformed, Property, Publish, Qos, RECEIVE_MAXIMUM, Reader, SESSION_EXPIRY,
    SUBSCRIPTION_ID, TOPIC_ALIAS, Version, WILL_DELAY, packet, push_text, push_var,
};

/// A packet a client sends.
#[derive(Debug)]
pub enum Request<'a> {
    Connect(Box<Connect<'a>>),
    Publish(Publish<'a>),
    Ack { kind: AckKind, id: u16, refused: bool },
    Subscribe { id: u16, subscription_id: u32, wanted: Vec<Wanted<'a>> },
    Unsubscribe { id: u16, filters: Vec<&'a str> },
    Pingreq,
    Disconnect { code: u8, session_expiry_s: Option<u32> },
}

/// Opens a session. Section 3.1.
#[derive(Debug)]
pub struct Connect<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    /// How long the session outlives the connection; 3.1.1 without a clean session: for ever.
    pub session_expiry_s: u32,
    pub receive_maximum: u16,
    /// The client takes no longer packets.
    pub maximum_packet: usize,
    pub will: Option<Will<'a>>,
    pub login: Option<(&'a str, &'a [u8])>,
}

/// What is published when the client vanishes.
#[derive(Debug)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: Qos,
    pub retain: bool,
    pub delay_s: u32,
    pub properties: Vec<u8>,
}

/// One filter of a SUBSCRIBE. Section 3.8.3.
#[derive(Debug, PartialEq)]
pub struct Wanted<'a> {
    pub filter: &'a str,
    pub qos: Qos,
    /// Not what this client publishes itself.
    pub no_local: bool,
    /// Keep the retain flag of what is published.
    pub retain_as_published: bool,
    /// 0: retained messages at every SUBSCRIBE, 1: only where the subscription is new, 2: never.
    pub retain_handling: u8,
}

/// Why a connection ends here, with the reason code of MQTT 5.
#[derive(Debug, PartialEq)]
pub struct Fault {
    pub code: u8,
    pub what: String,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self { code: 0x81, what: malformed.to_string() }
    }
}

fn fault<T>(code: u8, what: &str) -> Result<T, Fault> {
    Err(Fault { code, what: what.to_owned() })
}

/// Reads a packet whose fixed header is `frame` from its remaining bytes.
pub fn read<'a>(frame: Frame, body: &'a [u8], version: Version) -> Result<Request<'a>, Fault> {
    let flags = frame.first & 0x0F;
    let kind = frame.first >> 4;
    let wanted_flags = match kind {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != wanted_flags {
        return fault(0x81, "a packet with the wrong flags");
    }
    let v5 = version == Version::V5;
    Ok(match kind {
        1 => Request::Connect(Box::new(connect(body)?)),
        3 => Request::Publish(published(frame.first, body, version)?),
        4..=7 => {
            let mut rest = Reader::new(body, "an acknowledgement");
            let id = rest.u16()?;
            let refused = v5 && !rest.rest().is_empty() && rest.u8()? >= 0x80;
            let kind = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp][kind as usize - 4];
            Request::Ack { kind, id, refused }
        }
        8 => subscribe(body, v5)?,
        10 => {
            let mut rest = Reader::new(body, "UNSUBSCRIBE");
            let id = packet_id(&mut rest)?;
            if v5 {
                rest.properties()?;
            }
            let mut filters = Vec::new();
            while !rest.rest().is_empty() {
                filters.push(rest.text()?);
            }
            if filters.is_empty() {
                return fault(0x82, "an UNSUBSCRIBE without a filter");
            }
            Request::Unsubscribe { id, filters }
        }
        12 => Request::Pingreq,
        14 => {
            let mut rest = Reader::new(body, "DISCONNECT");
            let code = if v5 && !body.is_empty() { rest.u8()? } else { 0 };
            let mut session_expiry_s = None;
            if v5 && !rest.rest().is_empty() {
                let mut properties = Reader::new(rest.properties()?, "DISCONNECT");
                while !properties.rest().is_empty() {
                    if let Property::Four(SESSION_EXPIRY, seconds) = properties.property()? {
                        session_expiry_s = Some(seconds);
                    }
                }
            }
            Request::Disconnect { code, session_expiry_s }
        }
        15 => return fault(0x8C, "enhanced authentication, which is not served here"),
        _ => return fault(0x82, "a packet that only servers send"),
    })
}

/// A packet identifier, never zero.
fn packet_id(rest: &mut Reader<'_>) -> Result<u16, Fault> {
    match rest.u16()? {
        0 => fault(0x82, "packet identifier 0"),
        id => Ok(id),
    }
}

fn published(first: u8, body: &[u8], version: Version) -> Result<Publish<'_>, Fault> {
    let publish = Publish::read(first, body, version)?;
    let mut properties = Reader::new(publish.property_bytes(), "PUBLISH");
    while !properties.rest().is_empty() {
        match properties.property()? {
            Property::Two(TOPIC_ALIAS, _) => return fault(0x94, "a topic alias, though none was allowed"),
            Property::Var(SUBSCRIPTION_ID, _) => return fault(0x82, "a subscription identifier in a client's PUBLISH"),
            _ => {}
        }
    }
    Ok(publish)
}

fn connect(body: &[u8]) -> Result<Connect<'_>, Fault> {
    let mut rest = Reader::new(body, "CONNECT");
    if rest.text()? != "MQTT" {
        return fault(0x84, "a CONNECT of another protocol");
    }
    let version = match rest.u8()? {
        4 => Version::V4,
        5 => Version::V5,
        _ => return fault(0x84, "a version of MQTT that is neither 3.1.1 nor 5"),
    };
    let v5 = version == Version::V5;
    let flags = rest.u8()?;
    if flags & 1 != 0 {
        return fault(0x81, "a CONNECT with its reserved flag set");
    }
    let clean_start = flags & 2 != 0;
    let mut connect = Connect {
        version,
        client_id: "",
        clean_start,
        keep_alive_s: rest.u16()?,
        session_expiry_s: if v5 || clean_start { 0 } else { u32::MAX },
        receive_maximum: u16::MAX,
        maximum_packet: usize::MAX,
        will: None,
        login: None,
    };
    if v5 {
        let mut properties = Reader::new(rest.properties()?, "CONNECT");
        while !properties.rest().is_empty() {
            match properties.property()? {
                Property::Four(SESSION_EXPIRY, seconds) => connect.session_expiry_s = seconds,
                Property::Two(RECEIVE_MAXIMUM, 0) => return fault(0x82, "a receive maximum of 0"),
                Property::Two(RECEIVE_MAXIMUM, count) => connect.receive_maximum = count,
                Property::Four(MAXIMUM_PACKET, 0) => return fault(0x82, "a maximum packet size of 0"),
                Property::Four(MAXIMUM_PACKET, bytes) => connect.maximum_packet = bytes as usize,
                _ => {}
            }
        }
    }
    connect.client_id = rest.text()?;
    if flags & 4 != 0 {
        let Some(qos) = Qos::from_bits(flags >> 3 & 3) else { return fault(0x81, "a will of QoS 3") };
        let (mut delay_s, mut kept) = (0, Vec::new());
        if v5 {
            let mut properties = Reader::new(rest.properties()?, "CONNECT");
            while !properties.rest().is_empty() {
                let before = properties.rest();
                match properties.property()? {
                    Property::Four(WILL_DELAY, seconds) => delay_s = seconds,
                    _ => kept.extend_from_slice(&before[..before.len() - properties.rest().len()]),
                }
            }
        }
        let topic = rest.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return fault(0x90, "a will without a topic, or with a wildcard in it");
        }
        connect.will = Some(Will { topic, payload: rest.blob()?, qos, retain: flags & 0x20 != 0, delay_s, properties: kept });
    } else if flags & 0x38 != 0 {
        return fault(0x81, "flags of a will without a will");
    }
    let user = if flags & 0x80 != 0 { Some(rest.text()?) } else { None };
    let password = if flags & 0x40 != 0 { Some(rest.blob()?) } else { None };
    connect.login = user.map(|user| (user, password.unwrap_or_default()));
    if rest.rest().is_empty() { Ok(connect) } else { fault(0x81, "a CONNECT that is longer than its fields") }
}

fn subscribe(body: &[u8], v5: bool) -> Result<Request<'_>, Fault> {
    let mut rest = Reader::new(body, "SUBSCRIBE");
    let id = packet_id(&mut rest)?;
    let mut subscription_id = 0;
    if v5 {
        let mut properties = Reader::new(rest.properties()?, "SUBSCRIBE");
        while !properties.rest().is_empty() {
            match properties.property()? {
                Property::Var(SUBSCRIPTION_ID, 0) => return fault(0x82, "subscription identifier 0"),
                Property::Var(SUBSCRIPTION_ID, id) => subscription_id = id,
                _ => {}
            }
        }
    }
    let mut wanted = Vec::new();
    while !rest.rest().is_empty() {
        let filter = rest.text()?;
        let options = rest.u8()?;
        let Some(qos) = Qos::from_bits(options & 3) else { return fault(0x81, "a subscription of QoS 3") };
        wanted.push(Wanted {
            filter,
            qos,
            no_local: v5 && options & 4 != 0,
            retain_as_published: v5 && options & 8 != 0,
            retain_handling: if v5 { options >> 4 & 3 } else { 0 },
        });
    }
    if wanted.is_empty() {
        return fault(0x82, "a SUBSCRIBE without a filter");
    }
    Ok(Request::Subscribe { id, subscription_id, wanted })
}

/// Appends a CONNACK that welcomes: what is served here, as MQTT 5 says it. Section 3.2.
pub fn write_welcome(out: &mut Vec<u8>, version: Version, session_present: bool, assigned: Option<&str>, maximum_packet: usize) {
    packet(out, 0x20, |out| {
        out.extend_from_slice(&[session_present as u8, 0]);
        if version == Version::V5 {
            let mut properties = vec![MAXIMUM_PACKET];
            properties.extend_from_slice(&u32::try_from(maximum_packet).unwrap_or(u32::MAX).to_be_bytes());
            if let Some(id) = assigned {
                properties.push(ASSIGNED_CLIENT_ID);
                push_text(&mut properties, id);
            }
            push_var(out, properties.len());
            out.extend_from_slice(&properties);
        }
    });
}

/// Appends a CONNACK that refuses, with 3.1.1's nearest code.
pub fn write_refusal(out: &mut Vec<u8>, version: Version, code: u8) {
    match version {
        Version::V5 => out.extend_from_slice(&[0x20, 3, 0, code, 0]),
        Version::V4 => {
            let code = match code {
                0x84 => 1,
                0x85 => 2,
                0x86 => 4,
                0x87 => 5,
                _ => 3,
            };
            out.extend_from_slice(&[0x20, 2, 0, code]);
        }
    }
}

/// Appends a SUBACK or UNSUBACK: one code for each filter; 3.1.1 has none for UNSUBACK. Sections 3.9 and 3.11.
pub fn write_subscribed(out: &mut Vec<u8>, version: Version, first: u8, id: u16, codes: &[u8]) {
    packet(out, first, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        if version == Version::V5 {
            out.push(0);
        }
        if version == Version::V5 || first == SUBACK {
            out.extend_from_slice(codes);
        }
    });
}

pub const SUBACK: u8 = 0x90;
pub const UNSUBACK: u8 = 0xB0;

/// Appends a PINGRESP.
pub fn write_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// Reads whatever is in `bytes`, as both versions, to the end or the first fault. For fuzzing.
#[doc(hidden)]
pub fn fuzz_mqtt_request(bytes: &[u8]) {
    for version in [Version::V4, Version::V5] {
        let mut rest = bytes;
        while let Ok(Some(frame)) = Frame::read(rest) {
            if rest.len() < frame.len() {
                break;
            }
            let (packet, tail) = rest.split_at(frame.len());
            rest = tail;
            match read(frame, &packet[frame.header..], version) {
                Ok(Request::Subscribe { id, wanted, .. }) => assert!(id != 0 && !wanted.is_empty()),
                Ok(Request::Unsubscribe { id, filters }) => assert!(id != 0 && !filters.is_empty()),
                Ok(Request::Publish(publish)) => assert!(!publish.topic.is_empty()),
                Ok(_) => {}
                Err(fault) => {
                    assert!(fault.code >= 0x80);
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_mqtt::packet;

    fn request(bytes: &[u8], version: Version) -> Result<Request<'_>, Fault> {
        let frame = Frame::read(bytes).unwrap().unwrap();
        assert_eq!(frame.len(), bytes.len());
        read(frame, &bytes[frame.header..], version)
    }

    #[test]
    fn what_the_connectors_client_writes_is_read_as_it_was_meant() {
        for version in [Version::V4, Version::V5] {
            let will = packet::Will { topic: "a/b".into(), payload: b"gone".to_vec(), qos: Qos::AtLeastOnce, retain: true };
            let mut out = Vec::new();
            let opening = packet::Connect {
                client_id: "cell-1",
                clean_start: false,
                keep_alive_s: 30,
                login: Some(("me", "secret")),
                will: Some(&will),
                session_expiry_s: 60,
                receive_maximum: 7,
            };
            opening.write(&mut out, version);
            let Ok(Request::Connect(read)) = request(&out, version) else { panic!("no CONNECT") };
            assert_eq!((read.client_id, read.clean_start, read.keep_alive_s), ("cell-1", false, 30));
            assert_eq!(read.login, Some(("me", &b"secret"[..])));
            let is_v5 = version == Version::V5;
            assert_eq!((read.session_expiry_s, read.receive_maximum), if is_v5 { (60, 7) } else { (u32::MAX, u16::MAX) });
            let read = read.will.unwrap();
            assert_eq!((read.topic, read.payload, read.qos, read.retain), ("a/b", &b"gone"[..], Qos::AtLeastOnce, true));

            out.clear();
            packet::write_subscribe(&mut out, version, 9, "a/+/#", Qos::ExactlyOnce, 3);
            let Ok(Request::Subscribe { id: 9, subscription_id, wanted }) = request(&out, version) else { panic!("no SUBSCRIBE") };
            assert_eq!((subscription_id, wanted[0].filter, wanted[0].qos), (if is_v5 { 3 } else { 0 }, "a/+/#", Qos::ExactlyOnce));

            out.clear();
            packet::write_unsubscribe(&mut out, version, 10, "a/+/#");
            let Ok(Request::Unsubscribe { id: 10, filters }) = request(&out, version) else { panic!("no UNSUBSCRIBE") };
            assert_eq!(filters, ["a/+/#"]);
        }
    }

    #[test]
    fn what_no_client_may_send_has_its_reason_code() {
        for (bytes, code) in [
            (&[0x20, 2, 0, 0][..], 0x82),
            (&[0xF0, 0], 0x8C),
            (&[0x80, 5, 0, 1, 0, 0, 0], 0x81),
            (&[0x82, 2, 0, 1], 0x81),
            (&[0x82, 3, 0, 0, 0], 0x82),
            (&[0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', 3], 0x84),
            (&[0x10, 3, 0, 9, b'M'], 0x81),
            (&[0x30, 8, 0, 1, b'a', 3, TOPIC_ALIAS, 0, 1, b'x'], 0x94),
        ] {
            assert_eq!(request(bytes, Version::V5).unwrap_err().code, code, "{bytes:02x?}");
        }
    }
}
