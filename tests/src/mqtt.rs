//! An MQTT 3.1.1 client of the tests' own: exact about order and acknowledgements, quick enough to be the load.
//!
//! Deliberately not the library under test. Source: MQTT Version 3.1.1 (OASIS), sections 3.1 to 3.14.

use crate::wait::{PATIENCE, late};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A message as a subscriber got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub duplicate: bool,
}

impl Message {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }
}

pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    next_id: u16,
    /// What the broker has not acknowledged: id -> awaiting PUBCOMP rather than PUBACK or PUBREC.
    in_flight: BTreeMap<u16, bool>,
    window: usize,
    messages: VecDeque<Message>,
    session_present: bool,
    subscribed: usize,
}

impl Client {
    /// Connects with a clean session.
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port, None, true).unwrap_or_else(|error| panic!("cannot connect to the MQTT broker on port {port}: {error}"))
    }

    /// Connects with a session that the broker keeps.
    pub fn connect_kept(port: u16, client_id: &str) -> Self {
        Self::try_connect(port, Some(client_id), false)
            .unwrap_or_else(|error| panic!("cannot connect to the MQTT broker on port {port}: {error}"))
    }

    pub fn try_connect(port: u16, client_id: Option<&str>, clean: bool) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let id = client_id.map_or_else(|| format!("tests-{:08x}", fastrand::u32(..)), str::to_owned);
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.push(if clean { 2 } else { 0 });
        body.extend_from_slice(&0u16.to_be_bytes());
        push_text(&mut body, &id);
        let mut client = Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            next_id: 0,
            in_flight: BTreeMap::new(),
            window: 20,
            messages: VecDeque::new(),
            session_present: false,
            subscribed: 0,
        };
        push_packet(&mut client.output, 0x10, &body);
        client.send()?;
        let (kind, connack) = loop {
            if let Some((kind, body)) = next_packet(&client.input) {
                let connack = client.input[body.clone()].to_vec();
                client.input.drain(..body.end);
                break (kind, connack);
            }
            if client.fill()? == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
        };
        if kind >> 4 != 2 || connack.get(1) != Some(&0) {
            return Err(std::io::Error::other(format!("the broker refused: {connack:?}")));
        }
        client.session_present = connack[0] & 1 == 1;
        Ok(client)
    }

    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// How many messages may be unacknowledged at a time (QoS 1 and 2); 20 unless told, which is what Mosquitto grants for QoS 2.
    pub fn window(&mut self, messages: usize) -> &mut Self {
        self.window = messages;
        self
    }

    /// Sends a message; waits only while the window is full. [`Client::finish`] waits for the acknowledgements.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        self.try_publish(topic, payload, qos, retain).unwrap_or_else(|error| panic!("cannot publish to {topic}: {error}"));
    }

    pub fn try_publish(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) -> std::io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while qos > 0 && self.in_flight.len() >= self.window {
            self.turn()?;
            if Instant::now() > end {
                return Err(std::io::Error::new(ErrorKind::TimedOut, "the broker acknowledges nothing"));
            }
        }
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        push_text(&mut body, topic);
        if qos > 0 {
            let id = self.free_id();
            body.extend_from_slice(&id.to_be_bytes());
            self.in_flight.insert(id, false);
        }
        body.extend_from_slice(payload);
        push_packet(&mut self.output, 0x30 | (qos << 1) | u8::from(retain), &body);
        if self.output.len() > 32 * 1024 {
            self.send()?;
        }
        Ok(())
    }

    /// Hands what was published to the network without waiting for acknowledgements.
    pub fn send(&mut self) -> std::io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    /// Works on the acknowledgements that have come, without waiting for more than a moment.
    pub fn acknowledged(&mut self) -> std::io::Result<()> {
        if self.in_flight.is_empty() { Ok(()) } else { self.turn() }
    }

    /// Waits until everything published is acknowledged.
    pub fn finish(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.in_flight.is_empty() || !self.output.is_empty() {
            self.turn().unwrap_or_else(|error| panic!("the MQTT broker is gone with {} messages in flight: {error}", self.in_flight.len()));
            let left = self.in_flight.len();
            assert!(Instant::now() < end, "{}", late(&format!("an acknowledgement of {left} messages in flight"), PATIENCE));
        }
    }

    /// Subscribes and waits for the broker's word.
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let wanted = self.subscribed + 1;
        let mut body = self.free_id().to_be_bytes().to_vec();
        push_text(&mut body, filter);
        body.push(qos);
        push_packet(&mut self.output, 0x82, &body);
        crate::eventually("the broker accepts the subscription", || {
            self.turn().expect("the MQTT broker is there");
            (self.subscribed >= wanted).then_some(())
        });
    }

    /// Waits until `count` messages have come and takes them.
    pub fn take(&mut self, count: usize) -> Vec<Message> {
        crate::eventually(&format!("{count} MQTT messages"), || {
            self.turn().expect("the MQTT broker is there");
            (self.messages.len() >= count).then_some(())
        });
        self.messages.drain(..count).collect()
    }

    /// Waits until a message comes that `wanted` accepts, and takes all up to it.
    pub fn take_until(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let mut taken = Vec::new();
        crate::eventually(what, || {
            self.turn().expect("the MQTT broker is there");
            while let Some(message) = self.messages.pop_front() {
                let is_it = wanted(&message);
                taken.push(message);
                if is_it {
                    return Some(());
                }
            }
            None
        });
        taken
    }

    /// Everything that came in within this time: to show that nothing did.
    pub fn listen(&mut self, time: Duration) -> Vec<Message> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn().expect("the MQTT broker is there");
        }
        self.messages.drain(..).collect()
    }

    /// Sends what waits and works on what has come, waiting at most a moment.
    fn turn(&mut self) -> std::io::Result<()> {
        self.send()?;
        self.stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        self.fill()?;
        let input = std::mem::take(&mut self.input);
        let mut done = 0;
        while let Some((kind, body)) = next_packet(&input[done..]) {
            self.handle(kind, &input[done..][body.clone()]);
            done += body.end;
        }
        self.input.extend_from_slice(&input[done..]);
        self.send()
    }

    fn handle(&mut self, kind: u8, body: &[u8]) {
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        match kind >> 4 {
            3 => {
                let (topic_len, qos) = (usize::from(id(0)), (kind >> 1) & 3);
                let mut at = 2 + topic_len;
                let topic = String::from_utf8_lossy(&body[2..at]).into_owned();
                if qos > 0 {
                    let packet = id(at).to_be_bytes();
                    push_packet(&mut self.output, if qos == 1 { 0x40 } else { 0x50 }, &packet);
                    at += 2;
                }
                let (retain, duplicate) = (kind & 1 == 1, kind & 8 == 8);
                self.messages.push_back(Message { topic, payload: body[at..].to_vec(), qos, retain, duplicate });
            }
            4 | 7 => {
                self.in_flight.remove(&id(0));
            }
            5 => {
                self.in_flight.insert(id(0), true);
                push_packet(&mut self.output, 0x62, &id(0).to_be_bytes());
            }
            6 => push_packet(&mut self.output, 0x70, &id(0).to_be_bytes()),
            9 => self.subscribed += 1,
            _ => {}
        }
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::ConnectionReset.into()),
            Ok(read) => {
                self.input.extend_from_slice(&buffer[..read]);
                Ok(read)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if self.next_id != 0 && !self.in_flight.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.send();
        let _ = self.stream.write_all(&[0xE0, 0]);
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("a text of MQTT has at most 65,535 bytes").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn push_packet(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    let mut len = body.len();
    loop {
        let more = len > 127;
        out.push((len & 127) as u8 | if more { 128 } else { 0 });
        len >>= 7;
        if !more {
            break;
        }
    }
    out.extend_from_slice(body);
}

/// The first packet's head and where its body lies, once it is whole.
fn next_packet(input: &[u8]) -> Option<(u8, Range<usize>)> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let byte = *input.get(at)?;
        len |= usize::from(byte & 127) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
    }
    (input.len() >= at + len).then(|| (input[0], at..at + len))
}
