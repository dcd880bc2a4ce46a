//! The hall as its visitors see it: every reading arrives, whatever befalls the cables.

use millrace_kit::Tls;
use millrace_mqtt::packet::{self, AckKind, Message, Packet, Qos, Version, write_ack, write_publish, write_subscribe};
use millrace_mqtt::session::{Inbound, Opening, Session};
use millrace_mqtt::transport::Endpoint;
use millrace_mqtt_sim::{Fault, Hall, Options};
use std::collections::BTreeSet;
use std::time::Duration;

/// A visitor with a session that the broker keeps.
struct Visitor {
    session: Session,
    version: Version,
}

#[derive(Debug)]
struct Heard {
    topic: String,
    payload: Vec<u8>,
    retain: bool,
}

impl Visitor {
    async fn connect(hall: &Hall, client_id: &str, version: Version) -> Self {
        let opening = Opening {
            endpoint: Endpoint::parse(&hall.endpoint()).unwrap(),
            tls: Tls::default(),
            version,
            client_id: client_id.into(),
            login: None,
            keep_alive: Duration::from_secs(10),
            clean_start: false,
            session_expiry: Duration::from_secs(600),
            receive_maximum: 10,
            max_packet: 1 << 20,
            will: None,
            answered: Default::default(),
        };
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Session::open(&opening).await {
                Ok(session) => return Self { session, version },
                Err(error) => assert!(tokio::time::Instant::now() < end, "cannot connect: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn is_known(&self) -> bool {
        self.session.connack.session_present
    }

    async fn subscribe(&mut self, filter: &str, qos: Qos) {
        write_subscribe(&mut self.session.line.out, self.version, 1, filter, qos, 0);
        self.until(|packet| matches!(packet, Packet::Suback(_))).await;
    }

    async fn publish(&mut self, topic: &str, payload: &[u8], qos: Qos, retain: bool) {
        let message = Message { topic, payload, qos, retain, properties: &[] };
        write_publish(&mut self.session.line.out, self.version, &message, 2);
        match qos {
            Qos::AtMostOnce => self.session.flush().await.unwrap(),
            Qos::AtLeastOnce => self.until(|packet| matches!(packet, Packet::Ack(ack) if ack.kind == AckKind::Puback)).await,
            Qos::ExactlyOnce => {
                self.until(|packet| matches!(packet, Packet::Ack(ack) if ack.kind == AckKind::Pubrec)).await;
                write_ack(&mut self.session.line.out, AckKind::Pubrel, 2);
                self.until(|packet| matches!(packet, Packet::Ack(ack) if ack.kind == AckKind::Pubcomp)).await;
            }
        }
    }

    async fn until(&mut self, is_it: impl Fn(&Packet<'_>) -> bool) {
        loop {
            match self.session.inbox.next(self.version).unwrap() {
                Some(Inbound::Packet(packet)) if is_it(&packet) => return,
                Some(_) => {}
                None => self.more().await.expect("the connection lives"),
            }
        }
    }

    async fn more(&mut self) -> Result<(), ()> {
        let waited = tokio::time::timeout(PATIENCE, self.session.alongside(true, std::future::pending::<()>())).await;
        waited.expect("the broker says something").map(drop).map_err(drop)
    }

    /// The next message, acknowledged; `None` when the connection is over.
    async fn hear(&mut self) -> Option<Heard> {
        loop {
            let (heard, ack) = match self.session.inbox.next(self.version).unwrap() {
                Some(Inbound::Packet(Packet::Publish(publish))) => {
                    let heard = Heard { topic: publish.topic.into(), payload: publish.payload.into(), retain: publish.retain };
                    let ack = match publish.qos {
                        Qos::AtMostOnce => None,
                        Qos::AtLeastOnce => Some((AckKind::Puback, publish.id)),
                        Qos::ExactlyOnce => Some((AckKind::Pubrec, publish.id)),
                    };
                    (Some(heard), ack)
                }
                Some(Inbound::Packet(Packet::Ack(ack))) if ack.kind == AckKind::Pubrel => (None, Some((AckKind::Pubcomp, ack.id))),
                Some(Inbound::Packet(Packet::Disconnect(_))) => return None,
                Some(_) => (None, None),
                None => {
                    self.more().await.ok()?;
                    continue;
                }
            };
            if let Some((kind, id)) = ack {
                write_ack(&mut self.session.line.out, kind, id);
                self.session.flush().await.ok()?;
            }
            if heard.is_some() {
                return heard;
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn quiet() -> Options {
    Options { cells: 0, packers: 0, ..Options::default() }
}

fn seq_of(payload: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(payload).ok()?["seq"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_arrives_though_cables_are_cut_on_both_sides() {
    let hall = Hall::start(Options { cells: 2, cell_rate: 100.0, packers: 0, ..Options::default() }).await.unwrap();
    let mut visitor = Visitor::connect(&hall, "visitor", Version::V5).await;
    visitor.subscribe("cells/+/telemetry", Qos::AtLeastOnce).await;
    let lasts = Duration::from_millis(700);
    let mut seen: [BTreeSet<u64>; 2] = Default::default();
    let mut cuts = 0;
    let mut broken = 0;
    while seen.iter().any(|seen| seen.len() < 400) {
        let Some(heard) = visitor.hear().await else {
            visitor = Visitor::connect(&hall, "visitor", Version::V5).await;
            assert!(visitor.is_known(), "the broker kept the session");
            continue;
        };
        let cell = usize::from(heard.topic.contains("cell-2"));
        match seq_of(&heard.payload) {
            Some(seq) => _ = seen[cell].insert(seq),
            None => broken += 1,
        }
        let read = seen.iter().map(BTreeSet::len).min().unwrap_or(0);
        let due = [
            (50, Fault::Cut { client_id: "cell-1".into(), lasts }),
            (100, Fault::Cut { client_id: "visitor".into(), lasts }),
            (150, Fault::Hostile { client_id: "cell-2".into() }),
            (200, Fault::Burst { client_id: "cell-1".into(), readings: 300 }),
            (250, Fault::Death { client_id: "cell-2".into(), lasts }),
        ];
        if let Some((_, fault)) = due.get(cuts).filter(|(at, _)| read >= *at) {
            hall.inflict(fault);
            cuts += 1;
        }
    }
    assert_eq!((cuts, broken), (5, 1));
    for seen in seen {
        let (first, last) = (*seen.first().unwrap(), *seen.last().unwrap());
        assert_eq!(last - first + 1, seen.len() as u64, "numbers from {first} to {last}");
    }
    assert_eq!(hall.broker().counts().dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_line_is_noticed_and_nothing_is_lost() {
    let hall = Hall::start(Options { cells: 1, cell_rate: 50.0, packers: 0, ..Options::default() }).await.unwrap();
    let mut visitor = Visitor::connect(&hall, "visitor", Version::V4).await;
    visitor.subscribe("cells/#", Qos::AtLeastOnce).await;
    hall.inflict(&Fault::Silence { client_id: "cell-1".into(), lasts: Duration::from_secs(5) });
    let mut seen = BTreeSet::new();
    let mut states = Vec::new();
    while seen.len() < 400 {
        let heard = visitor.hear().await.expect("this line is not broken");
        match seq_of(&heard.payload) {
            Some(seq) => _ = seen.insert(seq),
            None => states.push(String::from_utf8(heard.payload).unwrap()),
        }
    }
    assert_eq!(*seen.last().unwrap() - *seen.first().unwrap() + 1, 400);
    assert!(states.iter().any(|state| state.contains("offline")), "its will was published: {states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_quality_of_service_goes_through_in_both_versions() {
    let hall = Hall::start(quiet()).await.unwrap();
    for version in [Version::V4, Version::V5] {
        let mut publisher = Visitor::connect(&hall, "publisher", version).await;
        for (name, qos) in [("0", Qos::AtMostOnce), ("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce)] {
            let mut visitor = Visitor::connect(&hall, &format!("visitor-{name}-{version:?}"), version).await;
            visitor.subscribe(&format!("q/{name}/#"), qos).await;
            for n in 0..30 {
                publisher.publish(&format!("q/{name}/x"), format!("{n}").as_bytes(), qos, false).await;
            }
            for n in 0..30 {
                assert_eq!(visitor.hear().await.unwrap().payload, format!("{n}").as_bytes(), "QoS {name}, {version:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_come_with_the_subscription_until_they_are_cleared() {
    let hall = Hall::start(quiet()).await.unwrap();
    let mut publisher = Visitor::connect(&hall, "publisher", Version::V5).await;
    publisher.publish("state/a", b"1", Qos::AtLeastOnce, true).await;
    publisher.publish("state/b", b"2", Qos::AtLeastOnce, true).await;
    publisher.publish("state/a", b"", Qos::AtLeastOnce, true).await;
    let mut visitor = Visitor::connect(&hall, "visitor", Version::V5).await;
    visitor.subscribe("state/#", Qos::AtLeastOnce).await;
    let heard = visitor.hear().await.unwrap();
    assert_eq!((heard.topic.as_str(), heard.payload.as_slice(), heard.retain), ("state/b", &b"2"[..], true));
    publisher.publish("state/b", b"3", Qos::AtLeastOnce, true).await;
    let heard = visitor.hear().await.unwrap();
    assert_eq!((heard.payload.as_slice(), heard.retain), (&b"3"[..], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_divides_and_a_second_connection_takes_the_session_over() {
    let hall = Hall::start(quiet()).await.unwrap();
    let mut publisher = Visitor::connect(&hall, "publisher", Version::V5).await;
    let mut first = Visitor::connect(&hall, "first", Version::V5).await;
    first.subscribe("$share/team/work", Qos::AtLeastOnce).await;
    let mut second = Visitor::connect(&hall, "second", Version::V5).await;
    second.subscribe("$share/team/work", Qos::AtLeastOnce).await;
    for n in 0..6u8 {
        publisher.publish("work", &[n], Qos::AtLeastOnce, false).await;
    }
    let mut all = BTreeSet::new();
    for visitor in [&mut first, &mut second] {
        for _ in 0..3 {
            all.insert(visitor.hear().await.unwrap().payload);
        }
    }
    assert_eq!(all.len(), 6);
    let mut again = Visitor::connect(&hall, "first", Version::V5).await;
    assert!(again.is_known());
    assert!(first.hear().await.is_none(), "the first connection is told that another one took over");
    again.publish("anything", b"x", Qos::AtLeastOnce, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_mqtt_end_their_own_connection_only() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let hall = Hall::start(quiet()).await.unwrap();
    let mut visitor = Visitor::connect(&hall, "visitor", Version::V5).await;
    visitor.subscribe("t", Qos::AtLeastOnce).await;
    let mut opening = Vec::new();
    packet::Connect {
        client_id: "x",
        clean_start: true,
        keep_alive_s: 0,
        login: None,
        will: None,
        session_expiry_s: 0,
        receive_maximum: 1,
    }
    .write(&mut opening, Version::V5);
    let hostile: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0],
        &[0x30, 3, 0, 1, b'a'],
        &[&opening[..], &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]].concat(),
        &[&opening[..], &[0x82, 3, 0, 0, 0]].concat(),
    ];
    for bytes in hostile {
        let mut stream = tokio::net::TcpStream::connect(hall.broker().addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:02x?} keeps its connection");
    }
    let mut publisher = Visitor::connect(&hall, "publisher", Version::V5).await;
    publisher.publish("t", b"still here", Qos::AtLeastOnce, false).await;
    assert_eq!(visitor.hear().await.unwrap().payload, b"still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_node_waits_for_its_host_and_is_born_again_on_command() {
    let options = Options { cells: 0, packers: 2, packer_rate: 50.0, primary_host: Some("host".into()), ..Options::default() };
    let hall = Hall::start(options).await.unwrap();
    let mut host = Visitor::connect(&hall, "host", Version::V5).await;
    host.subscribe("spBv1.0/packaging/#", Qos::AtLeastOnce).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while hall.devices()[0].stored < 20 {
        assert!(tokio::time::Instant::now() < end, "{:?}", hall.devices());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.publish("spBv1.0/STATE/host", br#"{"online":true,"timestamp":1}"#, Qos::AtLeastOnce, true).await;
    let mut verbs = Vec::new();
    while verbs.len() < 6 {
        let heard = host.hear().await.unwrap();
        verbs.push(heard.topic.trim_start_matches("spBv1.0/packaging/").to_owned());
    }
    assert_eq!(verbs[..3], ["NBIRTH/line-1", "DBIRTH/line-1/packer-1", "DBIRTH/line-1/packer-2"]);
    assert!(verbs[3..].iter().all(|verb| verb.starts_with("DDATA/line-1/")), "{verbs:?}");
    host.publish("spBv1.0/packaging/NCMD/line-1", b"", Qos::AtMostOnce, false).await;
    while !host.hear().await.unwrap().topic.contains("NBIRTH") {}
    host.publish("spBv1.0/STATE/host", br#"{"online":false,"timestamp":2}"#, Qos::AtLeastOnce, true).await;
    while !host.hear().await.unwrap().topic.contains("NDEATH") {}
}
