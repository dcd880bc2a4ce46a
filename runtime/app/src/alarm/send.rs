//! Where alarms go: a webhook, an MQTT topic, mail. Each is compiled without I/O and sends one message at a time.

use super::book::{Event, Message};
use super::smtp::{self, Mail, Security, Server};
use jiff::Timestamp;
use millrace_config::factory::{AlarmLevel, AlarmTarget, Factory, Writes};
use millrace_config::{Node, Place, Problems, Reason, Spanned};
use millrace_contract::{Compiled, Context, Entry, Flush, Partition, Record, Records, TagOptions};
use millrace_kit::Tls;
use millrace_kit::http::options::endpoint;
use millrace_kit::http::{Client, Expect, HttpLogin, Options, Request};
use millrace_mqtt::MqttSink;
use millrace_schemas::Span;
use serde_json::json;
use std::time::Duration;

/// How long a broker may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The topic of alarms in MQTT where the file says nothing.
const TOPIC: &str = "millrace/alarms";

/// A target, ready to send.
pub struct Target {
    pub name: String,
    pub level: AlarmLevel,
    way: Way,
}

enum Way {
    Webhook { url: reqwest::Url, login: Option<Box<HttpLogin>>, tls: Tls },
    Mqtt(Box<dyn Compiled>),
    Mail { server: Server, from: String, to: Vec<String> },
}

impl Target {
    /// Every problem is added at its place.
    pub fn compile(factory: &Factory, name: &str, target: &AlarmTarget, problems: &mut Problems) -> Option<Self> {
        let tls = Tls { ca: target.ca.clone(), ..Tls::default() };
        let mark = problems.mark();
        let way = match (&target.webhook, &target.mqtt, &target.mail) {
            (Some(url), None, None) => webhook(target, url, tls, problems),
            (None, Some(broker), None) => mqtt(factory, name, target, broker, problems),
            (None, None, Some(server)) => mail(target, server, tls, problems),
            _ => {
                let place = [&target.webhook, &target.mqtt, &target.mail].into_iter().flatten().next().map_or(Place::NONE, |one| one.place);
                problems
                    .error(place, format!("alarms.to.{name} is to have one of `webhook`, `mqtt` and `mail`"))
                    .help("make two targets of it");
                None
            }
        };
        if problems.has_errors_since(mark) {
            return None;
        }
        Some(Self { name: name.to_owned(), level: target.level, way: way? })
    }

    /// Errors: what failed; it may be tried again.
    pub async fn send(&self, site: &str, message: &Message) -> Result<(), Reason> {
        match &self.way {
            Way::Webhook { url, login, tls } => {
                let client = Client::new(url, login.as_deref(), tls, &Options::default()).map_err(|error| error.to_string())?;
                let request =
                    Request::new(reqwest::Method::POST, url.clone()).body("application/json", body(site, message)).expect(Expect::Any);
                client.fetch(&request).await.map(drop).map_err(|error| error.to_string().into())
            }
            Way::Mqtt(compiled) => {
                let sent = tokio::time::timeout(PATIENCE, publish(compiled.as_ref(), site, message)).await;
                sent.unwrap_or_else(|_| Err(format!("the broker did not acknowledge it in {PATIENCE:?}").into()))
            }
            Way::Mail { server, from, to } => {
                let (subject, text) = written(site, message);
                server.send(&Mail { from: from.clone(), to: to.clone(), subject, text }).await
            }
        }
    }
}

/// The message as JSON, for programs.
fn body(site: &str, message: &Message) -> String {
    let mut body = json!(message);
    body["site"] = site.into();
    let (subject, text) = written(site, message);
    // The fields that chat programs show.
    body["title"] = subject.into();
    body["message"] = text.into();
    body.to_string()
}

/// Subject and text, for people.
fn written(site: &str, message: &Message) -> (String, String) {
    let moment = |micros: i64| Timestamp::from_microsecond(micros).map_or_else(|_| String::new(), |at| format!("{at:.0}"));
    let word = match (message.event, message.level) {
        (Event::Test, _) => "test".to_owned(),
        (Event::Recovered, _) => "over".to_owned(),
        (event, AlarmLevel::Error) => format!("ERROR, {}", event.word()),
        (event, AlarmLevel::Warning) => format!("warning, {}", event.word()),
    };
    let subject = format!("[millrace {site}] {word}: {}", message.text.lines().next().unwrap_or_default());
    let text = format!(
        "{}\n\nWhat to do: {}\nSince: {}\nTold: {}\nAlarm: {}\n",
        message.text,
        message.help,
        moment(message.since),
        moment(message.time),
        message.id
    );
    (subject, text)
}

fn webhook(target: &AlarmTarget, url: &Spanned<String>, tls: Tls, problems: &mut Problems) -> Option<Way> {
    let parsed = endpoint(url, url.place, problems)?;
    // A token in the clear is nobody's secret any more.
    if target.bearer.is_some() && parsed.scheme() == "http" && !is_loopback(parsed.host_str().unwrap_or_default()) {
        problems.error(url.place, "`bearer` would be sent unencrypted").help("write https://");
    }
    let login = target.bearer.clone().map(|bearer| Box::new(HttpLogin { bearer: Some(bearer), ..HttpLogin::default() }));
    Some(Way::Webhook { url: parsed, login, tls })
}

fn mail(target: &AlarmTarget, url: &Spanned<String>, tls: Tls, problems: &mut Problems) -> Option<Way> {
    let (host, port, security) = match Server::parse(url) {
        Ok(parsed) => parsed,
        Err(why) => {
            problems.refused(url.place, &why);
            return None;
        }
    };
    if target.login.is_some() && security == Security::Never && !is_loopback(&host) {
        problems.error(url.place, "the password would be sent unencrypted").help("write `smtp://` (STARTTLS) or `smtps://`");
    }
    let Some(from) = &target.from else {
        problems.error(url.place, "a mail has no sender").help("add `from: millrace@plant.example`");
        return None;
    };
    if target.recipients.is_empty() {
        problems.error(url.place, "a mail has no recipients").help("add `recipients: [shift@plant.example]`");
    }
    for address in target.recipients.iter().chain([from]).filter(|address| !smtp::is_address(address)) {
        problems.error(address.place, format!("`{}` is no mail address", address.value)).help("write it bare: `shift@plant.example`");
    }
    let login = target.login.as_ref().map(|login| (login.user.clone(), login.password.expose().to_owned()));
    let server = Server { host, port, security, login, tls };
    Some(Way::Mail { server, from: from.value.clone(), to: target.recipients.iter().map(|to| to.value.clone()).collect() })
}

/// The sink of type `mqtt`, with the one topic. What it says of a key stands at the broker's line.
fn mqtt(factory: &Factory, name: &str, target: &AlarmTarget, broker: &Spanned<String>, problems: &mut Problems) -> Option<Way> {
    if factory.floor.writes.value != Writes::Allowed {
        problems
            .error(broker.place, "an alarm to a broker is a write to the floor, and writes are forbidden")
            .help("write `floor: {writes: allowed}`, or send it to a webhook or by mail")
            .also(factory.floor.writes.place, "here");
        return None;
    }
    let topic = target.topic.as_ref().map_or(TOPIC, |topic| topic.as_str());
    let mut keys = json!({ "endpoint": broker.value, "publish": { "topic": topic, "qos": 1, "content_type": "application/json" } });
    if let Some(login) = &target.login {
        keys["login"] = json!({ "user": login.user, "password": login.password.expose() });
    }
    if let Some(ca) = &target.ca {
        keys["tls"] = json!({ "ca": ca });
    }
    let mut own = Problems::new();
    let context = Context {
        name: format!("alarms-{name}"),
        place: broker.place,
        site: factory.site.value.clone(),
        levels: Vec::new(),
        at: String::new(),
        topic: None,
        options: TagOptions::default(),
        topics: vec![TOPIC.to_owned()],
        carries: millrace_contract::Carries::Documents,
        schemas: Vec::new(),
        declared: Vec::new(),
        writes_allowed: true,
        data_dir: factory.data_dir.clone(),
        sources: [].into(),
        cluster: millrace_contract::Cluster::default(),
    };
    // `${` in a text is meant as it stands: references are resolved already.
    let compiled =
        Node::from_yaml(&keys.to_string(), &mut own).and_then(|node| (Entry::of::<MqttSink>().compile)(&node, &context, &mut own));
    for problem in own.iter() {
        problems.error(broker.place, problem.message.clone());
    }
    Some(Way::Mqtt(compiled?))
}

async fn publish(compiled: &dyn Compiled, site: &str, message: &Message) -> Result<(), Reason> {
    let mut sink = compiled.sink().ok_or("it is no sink")?;
    let part = Partition { topic: TOPIC.into(), partition: 0 };
    sink.assign(std::slice::from_ref(&part)).await.map_err(|error| error.to_string())?;
    let mut records = Records { parts: vec![part.clone()], ..Records::default() };
    let mut copy = |bytes: &[u8]| {
        let start = records.heap.len() as u32;
        records.heap.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    };
    let (key, value) = (copy(message.id.as_bytes()), copy(body(site, message).as_bytes()));
    let headers = Span { start: key.start, len: 0 };
    let record = Record { part: 0, offset: 0, timestamp_ms: message.time / 1000, key: Some(key), value: Some(value), headers, prefix: 0 };
    records.records.push(record);
    let mut refused = sink.write(&records).await.map_err(|error| error.to_string())?;
    // Once a tick until the broker has it.
    loop {
        let flushed = sink.flush(Flush::Tick).await.map_err(|error| error.to_string())?;
        refused.extend(flushed.refused);
        if let Some(refused) = refused.first() {
            return Err(refused.reason.clone().into());
        }
        if flushed.below.iter().any(|(of, offset)| *of == part && *offset > 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = sink.flush(Flush::Stop).await;
    let _ = sink.revoke(&[part]).await;
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
