//! Commands: a value published to where its device listens, on the source's own connection, at most once.
//!
//! ```text
//! command ─> the order of its tag ─> expired? fits? ─> PUBLISH ─> PUBACK (QoS 1), or written (QoS 0) ─> [the tag reports the value] ─> answer
//! ```
//!
//! Nothing is published a second time: a connection that ends before the answer leaves `unknown`. With MQTT 5 the broker is told when the command
//! expires, and drops what it could not hand over by then; with 3.1.1 a broker that queues for a sleeping device does not know.
//!
//! Invariant: no PUBLISH of a command is made without a [`Permission`].

use crate::packet::{self, Message, Qos, Version, code_name};
use crate::topic::{Filter, LONGEST, Template};
use millrace_config::{Period, Problems, Reason, Spanned};
use millrace_contract::{Answer, Command, CommandValue, Outcome, TagOptions};
use millrace_kit::extract::{CellType, ValueMap};
use millrace_kit::fit::{Fitted, Machine, fit};
use millrace_schemas::{Micros, Origin, Row, TagId, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How a command reaches the device behind a subscription's tags. Commands want `floor: {writes: allowed}` and a sink with `source:`.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The topic to publish to: a text with `{1}`.. (what the filter's wildcards matched), `{topic}` (the topic of the value) and `{name}` (the name of
    /// the sample), as in `"{topic}/set"`. Of Sparkplug it is known: NCMD or DCMD.
    #[serde(default)]
    pub topic: Option<Spanned<String>>,
    /// The payload as JSON, in which `"{value}"` stands for the value: `{"{name}": "{value}"}`. Left out: the value alone, as text.
    #[serde(default)]
    pub json: Option<Spanned<Json>>,
    /// Quality of service: 0 or 1 (default).
    #[serde(default)]
    pub qos: Option<Spanned<u8>>,
    /// A command is done only when the tag reports the value within this time; otherwise its answer is `unknown`. Left out: done when the broker has it.
    #[serde(default)]
    pub confirm: Option<Period>,
}

/// Proof that this file's factory may write to devices; none is made without `floor: {writes: allowed}`.
#[derive(Clone, Copy, Debug)]
pub struct Permission(());

impl Permission {
    pub fn of(writes_allowed: bool) -> Option<Self> {
        writes_allowed.then_some(Self(()))
    }
}

/// What stands in braces.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Topic,
    Capture(usize),
    Name,
}

/// A payload in JSON.
#[derive(Clone, Debug, PartialEq)]
enum Body {
    /// `"{value}"`
    Value,
    Text(Template<Part>),
    Plain(Json),
    List(Vec<Body>),
    Object(Vec<(Template<Part>, Body)>),
}

/// How the tags of one subscription are commanded.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    filter: Filter,
    topic: Template<Part>,
    /// `None`: the value alone, as text.
    body: Option<Body>,
    qos: Qos,
    confirm: Option<Duration>,
}

impl Rule {
    /// Checks the key `command` of a subscription that is not Sparkplug.
    pub fn compile(config: &Spanned<CommandConfig>, filter: &Filter, problems: &mut Problems) -> Option<Self> {
        let part = |name: &str| match (name, name.parse::<usize>()) {
            ("topic", _) => Ok(Part::Topic),
            ("name", _) => Ok(Part::Name),
            (_, Ok(n)) if (1..=filter.wildcards()).contains(&n) => Ok(Part::Capture(n - 1)),
            (_, Ok(_)) => Err(format!("the filter `{filter}` has {} wildcards", filter.wildcards()).into()),
            _ => Err("unknown here; there are `{topic}`, `{name}`, and `{1}`, `{2}`.. for the filter's wildcards".into()),
        };
        let Some(topic) = &config.topic else {
            problems.error(config.place, "`command` wants `topic`, where the device listens").help("as in `topic: \"{topic}/set\"`");
            return None;
        };
        if let Some(wildcard) = topic.find(['+', '#']) {
            let wildcard = &topic[wildcard..wildcard + 1];
            problems
                .error(topic.place, format!("nothing is published to a wildcard: `{wildcard}` in `{}`", topic.value))
                .help("write `{1}`");
        }
        let qos = match config.qos.as_ref().map(|qos| (qos.value, qos.place)) {
            None | Some((1, _)) => Qos::AtLeastOnce,
            Some((0, _)) => Qos::AtMostOnce,
            Some((other, place)) => {
                problems.error(place, format!("a command is published with QoS 0 or 1, not {other}"));
                Qos::AtLeastOnce
            }
        };
        let body = match &config.json {
            None => None,
            Some(json) => {
                let body = Body::compile(&json.value, &part).map_err(|error| problems.refused(json.place, &error)).ok()?;
                if !body.has_value() {
                    problems
                        .error(json.place, "the payload of the command has no `\"{value}\"`")
                        .help("as in `json: {setpoint: \"{value}\"}`");
                }
                Some(body)
            }
        };
        let topic = Template::compile(topic, topic.place, problems, part)?;
        Some(Self { filter: filter.clone(), topic, body, qos, confirm: config.confirm.map(|confirm| confirm.0) })
    }
}

impl Body {
    fn compile(json: &Json, part: &impl Fn(&str) -> Result<Part, Reason>) -> Result<Self, Reason> {
        Ok(match json {
            Json::String(text) if text == "{value}" => Self::Value,
            Json::String(text) => Self::Text(Template::read(text, part)?),
            Json::Array(items) => Self::List(items.iter().map(|item| Self::compile(item, part)).collect::<Result<_, _>>()?),
            Json::Object(members) => {
                let members = members.iter().map(|(name, value)| Ok((Template::read(name, part)?, Self::compile(value, part)?)));
                Self::Object(members.collect::<Result<_, Reason>>()?)
            }
            plain => Self::Plain(plain.clone()),
        })
    }

    fn has_value(&self) -> bool {
        match self {
            Self::Value => true,
            Self::Text(_) | Self::Plain(_) => false,
            Self::List(items) => items.iter().any(Self::has_value),
            Self::Object(members) => members.iter().any(|(_, value)| value.has_value()),
        }
    }

    fn fill(&self, value: &Json, text: &impl Fn(&Template<Part>) -> String) -> Json {
        match self {
            Self::Value => value.clone(),
            Self::Text(template) => Json::String(text(template)),
            Self::Plain(json) => json.clone(),
            Self::List(items) => items.iter().map(|item| item.fill(value, text)).collect(),
            Self::Object(members) => Json::Object(members.iter().map(|(name, member)| (text(name), member.fill(value, text))).collect()),
        }
    }
}

/// How one tag is commanded.
#[derive(Clone, Debug)]
pub struct Order {
    pub rule: Arc<Rule>,
    /// The topic of its values.
    pub topic: Box<str>,
    /// The name of the sample, or empty.
    pub name: Box<str>,
    /// `None`: any scalar.
    pub wants: Option<CellType>,
    /// The device's words: what stands for a value is sent instead of it.
    pub map: ValueMap,
    pub options: Arc<TagOptions>,
}

/// A command as it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Publishing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub confirm: Option<Duration>,
    /// What the tag is to report: the value as the device has it.
    pub wanted: CommandValue,
}

impl Order {
    /// Errors: why the value can't be published.
    pub fn publishing(&self, value: &CommandValue, _: Permission) -> Result<Publishing, Reason> {
        let wanted = raw(value, self.wants, &self.options)?;
        let captures = self.rule.filter.captures(&self.topic).unwrap_or_default();
        let text = |template: &Template<Part>| {
            let mut out = Vec::new();
            let filled = template.fill(&mut out, |part, out| {
                let text = match part {
                    Part::Topic => &*self.topic,
                    Part::Capture(n) => captures.get(*n).copied().unwrap_or_default(),
                    Part::Name => &*self.name,
                };
                out.extend_from_slice(text.as_bytes());
                Ok::<_, Infallible>(())
            });
            filled.unwrap_or_else(|never| match never {});
            String::from_utf8_lossy(&out).into_owned()
        };
        let topic = text(&self.rule.topic);
        if topic.is_empty() || topic.len() > LONGEST || topic.contains(['+', '#', '\0']) {
            return Err(format!("nothing can be published to the topic `{topic}`; change `topic` of the subscription's `command`").into());
        }
        let word = self.map.word_of(&wanted).map(|word| CommandValue::Text(word.to_owned()));
        let said = word.as_ref().unwrap_or(&wanted);
        let payload = match &self.rule.body {
            None => text_of(said),
            Some(body) => body.fill(&json_of(said), &text).to_string(),
        };
        Ok(Publishing { topic, payload: payload.into_bytes(), qos: self.rule.qos, confirm: self.rule.confirm, wanted })
    }
}

/// A command's value as the device has it: of the declared type, before `scale`. Errors: why it does not fit.
fn raw(value: &CommandValue, wants: Option<CellType>, options: &TagOptions) -> Result<CommandValue, Reason> {
    let number = |machine| match fit(value, machine, options) {
        Ok(Fitted::Whole(whole)) => {
            Ok(i64::try_from(whole).map(CommandValue::Int).or_else(|_| u64::try_from(whole).map(CommandValue::UInt)))
        }
        Ok(Fitted::F32(number)) => Ok(Ok(CommandValue::Double(number.into()))),
        Ok(Fitted::F64(number)) => Ok(Ok(CommandValue::Double(number))),
        Ok(Fitted::Bool(on)) => Ok(Ok(CommandValue::Bool(on))),
        Err(unfit) => Err(unfit.to_string()),
    };
    let number = |machine| number(machine).and_then(|fitted| fitted.map_err(|_| "the value does not fit 64 bits".to_owned()));
    match (wants, value) {
        (_, CommandValue::List(_)) => Err("a list is for methods; a metric has one value".into()),
        (Some(CellType::String), CommandValue::Text(_)) => Ok(value.clone()),
        (Some(CellType::String), other) => Err(format!("a text is asked for, not {}", text_of(other)).into()),
        (Some(CellType::Boolean), _) => number(Machine::Bool).map_err(Reason::from),
        (Some(CellType::Long), CommandValue::UInt(_)) => number(Machine::U64).map_err(Reason::from),
        (Some(CellType::Long), _) => number(Machine::I64).map_err(Reason::from),
        (Some(CellType::Number), CommandValue::Bool(on)) => Err(format!("a number is asked for, not {on}").into()),
        (None, CommandValue::Bool(_) | CommandValue::Text(_)) => Ok(value.clone()),
        // A whole number stays exact where nothing is counted back.
        (Some(CellType::Number) | None, CommandValue::Int(_) | CommandValue::UInt(_)) if options.scaling().is_none() => Ok(value.clone()),
        (Some(CellType::Number | CellType::Double) | None, _) => number(Machine::F64).map_err(Reason::from),
    }
}

fn text_of(value: &CommandValue) -> String {
    match value {
        CommandValue::Bool(on) => on.to_string(),
        CommandValue::Int(number) => number.to_string(),
        CommandValue::UInt(number) => number.to_string(),
        CommandValue::Double(number) => number.to_string(),
        CommandValue::Text(text) => text.clone(),
        list @ CommandValue::List(_) => list.to_string(),
    }
}

fn json_of(value: &CommandValue) -> Json {
    match value {
        CommandValue::Bool(on) => (*on).into(),
        CommandValue::Int(number) => (*number).into(),
        CommandValue::UInt(number) => (*number).into(),
        CommandValue::Double(number) => (*number).into(),
        CommandValue::Text(text) => text.as_str().into(),
        CommandValue::List(values) => values.iter().map(json_of).collect(),
    }
}

/// Whether a reading is the value that was commanded.
fn is_reported(wanted: &CommandValue, row: &Row, heap: &[u8]) -> bool {
    if row.status.is_bad() || row.flags.origin == Origin::Initial {
        return false;
    }
    let number = |value: &CommandValue| match value {
        CommandValue::Bool(on) => Some(f64::from(u8::from(*on))),
        CommandValue::Int(number) => Some(*number as f64),
        CommandValue::UInt(number) => Some(*number as f64),
        CommandValue::Double(number) => Some(*number),
        CommandValue::Text(_) | CommandValue::List(_) => None,
    };
    match (row.value, wanted) {
        (Value::Text(span), CommandValue::Text(text)) => span.of(heap) == text.as_bytes(),
        (Value::Bool(on), wanted) => number(wanted) == Some(f64::from(u8::from(on))),
        (Value::Int(read), wanted) => number(wanted) == Some(read as f64),
        (Value::UInt(read), wanted) => number(wanted) == Some(read as f64),
        (Value::Double(read), wanted) => number(wanted) == Some(read),
        _ => false,
    }
}

/// So many commands wait for their answers at most; the next ones wait in the engine.
const MOST: usize = 16;
/// The broker answers a PUBLISH within this time, or nobody knows.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How soon it is looked at again whether bytes were written.
const SOON: Duration = Duration::from_millis(2);

/// The commands of one connection that have no answer yet. Dropped, their answers are `unknown`.
#[derive(Default)]
pub struct Pending {
    /// It came while earlier bytes were still being written.
    held: Option<Command>,
    published: Vec<Published>,
}

struct Published {
    /// Of the PUBLISH; zero with QoS 0.
    id: u16,
    tag: TagId,
    topic: String,
    wanted: CommandValue,
    confirm: Option<Duration>,
    /// The broker has it; with QoS 0 it is written.
    is_taken: bool,
    until: Instant,
    answer: Answer,
}

/// What a command is published with.
pub struct On<'a> {
    pub out: &'a mut Vec<u8>,
    pub version: Version,
    pub id: u16,
    pub maximum_qos: Qos,
    pub maximum_packet: Option<u32>,
}

impl Pending {
    /// Whether another command may be taken.
    pub fn has_room(&self, receive_maximum: u16) -> bool {
        self.held.is_none() && self.published.len() < MOST.min(receive_maximum.into())
    }

    pub fn hold(&mut self, command: Command) {
        self.held = Some(command);
    }

    pub fn take_held(&mut self) -> Option<Command> {
        self.held.take()
    }

    /// When to look again.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let waits_for_bytes = self.held.is_some() || self.published.iter().any(|one| one.id == 0 && !one.is_taken);
        let soon = waits_for_bytes.then_some(now + SOON);
        self.published.iter().map(|one| one.until).chain(soon).min()
    }

    /// Publishes. The answer comes with what the broker says.
    pub fn publish(&mut self, command: Command, publishing: Publishing, on: On<'_>) {
        let Command { tag, expires, answer, .. } = command;
        let left = expires.0 - Micros::now().0;
        if left <= 0 {
            return answer.send(Outcome::Expired);
        }
        let Publishing { topic, payload, qos, confirm, wanted } = publishing;
        let qos = qos.min(on.maximum_qos);
        let mut properties = Vec::new();
        if on.version == Version::V5 {
            let seconds = u32::try_from((left + 999_999) / 1_000_000).unwrap_or(u32::MAX);
            packet::push_message_expiry(&mut properties, seconds);
        }
        let message = Message { topic: &topic, payload: &payload, qos, retain: false, properties: &properties };
        let most = on.maximum_packet.map_or(packet::LARGEST, |most| most as usize);
        let len = packet::publish_len(on.version, &message);
        if len + 5 > most {
            return answer.send(Outcome::Refused(format!("the command has {len} bytes, and the broker takes {most}")));
        }
        packet::write_publish(on.out, on.version, &message, on.id);
        let id = if qos == Qos::AtMostOnce { 0 } else { on.id };
        let until = Instant::now() + ANSWERS_WITHIN;
        self.published.push(Published { id, tag, topic, wanted, confirm, is_taken: false, until, answer });
    }

    /// The broker's PUBACK.
    pub fn acked(&mut self, id: u16, code: u8, said: Option<&str>) {
        let Some(index) = self.published.iter().position(|one| one.id == id && id != 0 && !one.is_taken) else { return };
        let said = said.map_or_else(String::new, |said| format!(", it says: {said}"));
        let topic = &self.published[index].topic;
        let failed = match code {
            0x10 => Some(format!("nobody is subscribed to `{topic}`: no device took the command{said}")),
            code if code >= 0x80 => Some(format!("the broker refuses the command to `{topic}`: {}{said}", code_name(code))),
            _ => None,
        };
        match failed {
            Some(why) => self.published.swap_remove(index).answer.send(Outcome::Failed(why)),
            None => self.taken(index),
        }
    }

    fn taken(&mut self, index: usize) {
        let one = &mut self.published[index];
        match one.confirm {
            None => self.published.swap_remove(index).answer.send(Outcome::Done),
            Some(confirm) => {
                one.is_taken = true;
                one.until = Instant::now() + confirm;
            }
        }
    }

    /// Whether a reading may be an answer.
    pub fn is_confirmed_by_readings(&self) -> bool {
        self.published.iter().any(|one| one.confirm.is_some())
    }

    /// Readings came in: one that is as commanded confirms.
    pub fn seen(&mut self, rows: &[Row], heap: &[u8]) {
        for row in rows {
            let is_it = |one: &Published| one.confirm.is_some() && one.tag == row.tag && is_reported(&one.wanted, row, heap);
            while let Some(index) = self.published.iter().position(is_it) {
                self.published.swap_remove(index).answer.send(Outcome::Done);
            }
        }
    }

    /// Answers what is due. `is_written`: all bytes so far went to the broker.
    pub fn look(&mut self, now: Instant, is_written: bool) {
        for index in (0..self.published.len()).rev() {
            let one = &self.published[index];
            if one.id == 0 && !one.is_taken && is_written {
                self.taken(index);
            } else if one.until <= now {
                let one = self.published.swap_remove(index);
                tracing::warn!(topic = one.topic, "whether a command was carried out is not known: no answer in time");
                one.answer.send(Outcome::Unknown);
            }
        }
    }

    /// The connection closes: what was never published failed.
    pub fn close(&mut self) {
        if let Some(command) = self.held.take() {
            command.answer.send(Outcome::Failed("the connection closed before the command was published".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Node;

    fn order(yaml: &str, filter: &str, wants: Option<CellType>, options: TagOptions) -> Result<Order, String> {
        let mut problems = Problems::new();
        let config: Option<Spanned<CommandConfig>> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
        let filter = Filter::parse(filter).unwrap();
        let rule = config.and_then(|config| Rule::compile(&config, &filter, &mut problems));
        let said: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
        match rule.filter(|_| said.is_empty()) {
            Some(rule) => Ok(Order {
                rule: Arc::new(rule),
                topic: "home/7/state".into(),
                name: "level".into(),
                wants,
                map: ValueMap::default(),
                options: Arc::new(options),
            }),
            None => Err(said.join("; ")),
        }
    }

    fn published(yaml: &str, wants: Option<CellType>, value: CommandValue) -> Result<(String, String), Reason> {
        let order = order(yaml, "home/+/state", wants, TagOptions::default()).unwrap();
        let publishing = order.publishing(&value, Permission::of(true).unwrap())?;
        Ok((publishing.topic, String::from_utf8(publishing.payload).unwrap()))
    }

    #[test]
    fn a_value_is_published_as_the_device_wants_it_or_not_at_all() {
        use CommandValue::{Bool, Double, Int, Text, UInt};
        let said = |topic: &str, payload: &str| Ok((topic.to_owned(), payload.to_owned()));
        let plain = "{topic: 'home/{1}/set'}";
        assert_eq!(published(plain, Some(CellType::Number), Double(21.5)), said("home/7/set", "21.5"));
        assert_eq!(published(plain, Some(CellType::Number), UInt(u64::MAX)), said("home/7/set", "18446744073709551615"));
        assert_eq!(published(plain, None, Bool(true)), said("home/7/set", "true"));
        assert_eq!(published(plain, Some(CellType::String), Text("ON".into())), said("home/7/set", "ON"));
        let json = "{topic: '{topic}/set', json: {'{name}': '{value}', of: ['{1}', 2]}}";
        assert_eq!(published(json, None, Int(3)), said("home/7/state/set", r#"{"level":3,"of":["7",2]}"#));
        assert_eq!(published(json, None, Text("a\"b".into())), said("home/7/state/set", r#"{"level":"a\"b","of":["7",2]}"#));
        for (wants, value) in [
            (CellType::Number, Text("x".into())),
            (CellType::Number, Bool(true)),
            (CellType::Number, Double(f64::NAN)),
            (CellType::Long, Double(2.5)),
            (CellType::Boolean, Int(2)),
            (CellType::String, Int(1)),
        ] {
            assert!(published(plain, Some(wants), value.clone()).is_err(), "{wants:?} {value:?}");
        }
        assert!(published("{topic: 'a/{name}'}", None, Int(1)).is_ok());
    }

    #[test]
    fn a_value_goes_out_as_the_word_that_stands_for_it() {
        let node = Node::from_yaml("{ON: true, OFF: false, low: 1}", &mut Problems::new()).unwrap();
        let map: ValueMap = node.parse(&mut Problems::new()).unwrap();
        let order = Order { map, ..order("{topic: '{topic}/set'}", "home/+/state", None, TagOptions::default()).unwrap() };
        for (value, word) in [(CommandValue::Bool(true), "ON"), (CommandValue::Int(1), "low"), (CommandValue::Int(2), "2")] {
            let publishing = order.publishing(&value, Permission::of(true).unwrap()).unwrap();
            assert_eq!((String::from_utf8(publishing.payload).unwrap().as_str(), publishing.wanted), (word, value));
        }
    }

    #[test]
    fn a_scaled_value_is_counted_back() {
        let options = TagOptions { scale: Some(0.1), ..TagOptions::default() };
        let order = order("{topic: t}", "home/+/state", Some(CellType::Long), options).unwrap();
        let publishing = order.publishing(&CommandValue::Double(21.5), Permission::of(true).unwrap()).unwrap();
        assert_eq!((publishing.payload, publishing.wanted), (b"215".to_vec(), CommandValue::Int(215)));
        assert!(order.publishing(&CommandValue::Double(21.55), Permission::of(true).unwrap()).unwrap_err().contains("is not exact"));
    }

    #[test]
    fn a_command_that_leads_nowhere_is_refused_in_the_file() {
        for (yaml, part) in [
            ("{}", "wants `topic`"),
            ("{topic: 'a/+'}", "nothing is published to a wildcard"),
            ("{topic: 'a/{2}'}", "has 1 wildcards"),
            ("{topic: 'a/{x}'}", "unknown here"),
            ("{topic: a, qos: 2}", "QoS 0 or 1, not 2"),
            ("{topic: a, json: {on: true}}", "no `\"{value}\"`"),
        ] {
            let error = order(yaml, "home/+/state", None, TagOptions::default()).unwrap_err();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }
}
