//! One subscription of the YAML, compiled: its filter, and what becomes of its messages.

use crate::command::Rule;
use crate::config::{PayloadConfig, SubscriptionConfig};
use crate::packet::Qos;
use crate::payload::{Check, Decode, Document, Packing, Scalar, Single};
use crate::routes::Route;
use crate::sparkplug;
use crate::topic::Filter;
use millrace_config::{Place, Problems, Short, Spanned};
use millrace_contract::{Context, TagDef, TagOptions, Tagged};
use millrace_kit::extract::{Each, Missing, Places, Pointer, Rules, SampleConfig, TimeAt};
use millrace_kit::records::{self, Compile, Readings, Shape, Uses, Variable};
use millrace_kit::time::Clock;
use millrace_kit::topics::check_name;
use millrace_kit::{AllowedTopics, Template};
use millrace_schemas::RouteId;
use std::convert::Infallible;
use std::sync::Arc;

/// One subscription being compiled.
pub(crate) struct Compiling<'a> {
    pub subscription: &'a Spanned<Tagged<SubscriptionConfig>>,
    pub context: &'a Context,
    pub index: usize,
    pub allowed: Arc<AllowedTopics>,
    pub max_packet: usize,
}

impl Compiling<'_> {
    fn own(&self) -> &SubscriptionConfig {
        &self.subscription.own
    }

    /// The Kafka topic that holds here, and where it was said.
    pub fn topic(&self, problems: &mut Problems) -> Option<Spanned<String>> {
        let place = self.subscription.place;
        let said = self.subscription.options.topic.as_deref().or(self.context.topic.as_deref());
        if said.is_none() {
            problems
                .error(place, format!("no `topic` for the messages of `{}`", self.own().filter.value))
                .help("add `topic: NAME`, here or at the source");
        }
        Some(Spanned { value: said?.to_owned(), place })
    }

    pub fn run(&self, problems: &mut Problems) -> Option<(Route, Option<sparkplug::Route>)> {
        let own = self.own();
        let qos = match own.qos.as_ref().map(|qos| (qos.value, qos.place)) {
            None => Qos::AtLeastOnce,
            Some((bits, place)) => Qos::from_bits(bits).unwrap_or_else(|| {
                problems.error(place, format!("there is no QoS {bits}; there are 0, 1 and 2"));
                Qos::AtLeastOnce
            }),
        };
        let filter = match Filter::parse(&own.filter) {
            Ok(filter) => filter,
            Err(error) => {
                problems.error(own.filter.place, error);
                return None;
            }
        };
        let topic = self.topic(problems)?;
        let (id, given) = (RouteId(self.index as u32), filter.given());
        let compile = Compile {
            keys: &own.record_keys(),
            options: &self.subscription.options,
            place: self.subscription.place,
            route: id,
            what: filter.as_str(),
            given: &given,
            allowed: &self.allowed,
            context: self.context,
        };
        let topic = compile.kafka_topic(&topic, topic.place, problems)?;
        self.refuse_unused(problems);
        let mut sparkplug = None;
        let decode = match self.payload() {
            PayloadConfig::Json => Self::json(&compile, problems)?,
            PayloadConfig::Senml => Decode::Senml(Box::new(self.senml(&compile, &topic, problems)?)),
            PayloadConfig::Sparkplug => {
                sparkplug = Some(self.sparkplug(id, &filter, problems)?);
                Decode::Sparkplug
            }
            PayloadConfig::Number => Decode::Value(self.single(Scalar::Number, &filter, &compile, problems)?),
            PayloadConfig::Text if own.tag.is_some() => Decode::Value(self.single(Scalar::Text, &filter, &compile, problems)?),
            PayloadConfig::Bytes if own.tag.is_some() => Decode::Value(self.single(Scalar::Bytes, &filter, &compile, problems)?),
            PayloadConfig::Text => Decode::Document(self.opaque(Check::Text, &compile, problems)?),
            PayloadConfig::Bytes => Decode::Document(self.opaque(Check::Nothing, &compile, problems)?),
        };
        let subscription_id = subscription_id(filter.as_str());
        let encoding = own.encoding.filter(|_| self.payload() != PayloadConfig::Bytes);
        let packing = Packing { compression: own.compression, encoding, limit: self.max_packet };
        let allowed = self.allowed.clone();
        let command = self.command(&filter, &decode, problems).map(Arc::new);
        Some((Route { id, filter, qos, subscription_id, topic, packing, allowed, decode, command }, sparkplug))
    }

    fn command(&self, filter: &Filter, decode: &Decode, problems: &mut Problems) -> Option<Rule> {
        let command = self.own().command.as_ref()?;
        match decode {
            Decode::Value(Single { kind: Scalar::Number | Scalar::Text, .. }) | Decode::Samples(_) => {
                Rule::compile(command, filter, problems)
            }
            Decode::Sparkplug => {
                let places = [command.topic.as_ref().map(|topic| topic.place), command.json.as_ref().map(|json| json.place)];
                let unused = places.into_iter().chain([command.qos.as_ref().map(|qos| qos.place)]).flatten().next();
                if let Some(place) = unused {
                    problems.error(place, "Sparkplug says itself where a command goes, and how; only `confirm` is said here");
                }
                None
            }
            _ => {
                problems
                    .error(command.place, "`command` has no use here: it is for tags of `number`, of `text` with `tag`, and of `samples`")
                    .help("leave it out");
                None
            }
        }
    }

    fn payload(&self) -> PayloadConfig {
        self.own().payload.as_ref().map_or(PayloadConfig::Json, |payload| payload.value)
    }

    /// Keys that this kind of payload would leave unread are an error, not a surprise.
    fn refuse_unused(&self, problems: &mut Problems) {
        let own = self.own();
        let is_json = self.payload() == PayloadConfig::Json;
        let is_reading = is_json && (own.each.is_some() || own.value.is_some() || own.tag.is_some() && own.samples.is_some());
        let has_tag =
            matches!(self.payload(), PayloadConfig::Number | PayloadConfig::Sparkplug | PayloadConfig::Senml) || own.tag.is_some();
        let mut refuse = |place: Option<Place>, key: &str, why: &str| {
            if let Some(place) = place {
                problems.error(place, format!("`{key}` has no use here: {why}"));
            }
        };
        let samples = own.samples.as_ref().map(|samples| samples.place);
        let is_value = self.payload() == PayloadConfig::Number || self.payload() == PayloadConfig::Text && has_tag;
        if !is_value {
            refuse(
                own.map.as_ref().map(|map| map.place),
                "map",
                "it is for payloads that are one value: `number`, or `text` with `tag`; of JSON each sample has its own",
            );
        }
        if !is_json {
            refuse(samples, "samples", "only JSON payloads have samples by pointer");
            refuse(own.time.as_ref().map(|time| time.place), "time", "only JSON payloads carry a time");
        }
        if !is_json {
            refuse(own.each.as_ref().map(Places::first), "each", "only JSON payloads hold lists of readings");
            refuse(own.value.as_ref().map(Places::first), "value", "only a JSON payload has its value by a pointer");
        }
        if !is_json {
            refuse(own.status.as_ref().map(|status| status.place), "status", "it goes with `samples`");
        }
        let tag = own.tag.as_ref().map(|tag| tag.place);
        if is_json && !is_reading {
            refuse(tag, "tag", "a document has no tag; add `value`, where the reading's value stands, or `samples`");
        }
        if !is_json && !has_tag {
            refuse(own.at.as_ref().map(|at| at.place), "at", "a document has no tag path; add `tag`");
        }
        if !is_json && has_tag {
            refuse(own.key.as_ref().map(|key| key.place), "key", "samples have the key their topic says");
        }
    }

    /// What becomes of the payloads, which are JSON.
    fn json(compile: &Compile<'_>, problems: &mut Problems) -> Option<Decode> {
        Some(match compile.run(problems)?.shape {
            Shape::Samples(samples) => Decode::Samples(samples),
            Shape::Readings(list) => Decode::Readings(list),
            Shape::Document(document) => {
                let records::Document { extraction, key } = *document;
                let is_in_payload = |variable: &Variable| matches!(variable, Variable::Name(_));
                let key_in_payload = key.iter().flat_map(Template::variables).any(is_in_payload);
                Decode::Document(Document { check: Check::Json(Box::new(extraction)), key, key_in_payload })
            }
        })
    }

    /// A document that is looked at no closer.
    fn opaque(&self, check: Check, compile: &Compile<'_>, problems: &mut Problems) -> Option<Document> {
        let key = match &self.own().key {
            None => None,
            Some(key) => Some(compile.template(key, key.place, Uses::Given, problems)?),
        };
        Some(Document { check, key, key_in_payload: false })
    }

    fn senml(&self, compile: &Compile<'_>, topic: &Template<Variable>, problems: &mut Problems) -> Option<Readings> {
        let at = |at: &str| Places(vec![Spanned::from(at.to_owned())]);
        let name = Spanned { value: "{/name}".to_owned(), place: self.subscription.place };
        let path = compile.path(Some(self.own().tag.as_ref().unwrap_or(&name)), Uses::Reading, problems)?;
        let mut found = Vec::new();
        for (name, pointer) in [("", "/value"), ("sum", "/sum")] {
            let config = SampleConfig { at: at(pointer), declared: None, nulls: None, map: None };
            let sample = Tagged { own: Short(config), options: TagOptions::default() };
            found.push(compile.item(name, &Spanned { value: sample, place: self.subscription.place }, topic, problems)?);
        }
        let (items, wanted): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let pointer = |text: &str| Pointer::parse(text).ok();
        let time = TimeAt { pointers: vec![pointer("/time")?], clock: Clock::seconds_if_any() };
        let each = Each::new(vec![pointer("")?], wanted, vec![pointer("/name")?], Some(time), None);
        Some(Readings { path, items, each, missing: Missing::Skip })
    }

    fn single(&self, kind: Scalar, filter: &Filter, compile: &Compile<'_>, problems: &mut Problems) -> Option<Single> {
        let Some(tag) = &self.own().tag else {
            problems.error(self.subscription.place, format!("no `tag` for the values of `{filter}`")).help(if filter.wildcards() > 0 {
                "add `tag: \"{1}\"`, or `tag: \"{topic}\"`"
            } else {
                "add `tag: NAME`"
            });
            return None;
        };
        let path = compile.path(Some(tag), Uses::Given, problems)?;
        Some(Single {
            kind,
            rules: Rules {
                notation: compile.notation(problems),
                nulls: self.own().nulls.clone().unwrap_or_default(),
                map: self.own().map.as_ref().map(|map| map.value.clone()).unwrap_or_default(),
                ..Rules::default()
            },
            path,
            options: Arc::new(self.subscription.options.over(&self.context.options)),
        })
    }

    fn sparkplug(&self, id: RouteId, filter: &Filter, problems: &mut Problems) -> Option<sparkplug::Route> {
        if filter.literal(0) != Some(sparkplug::NAMESPACE) {
            problems
                .error(self.own().filter.place, format!("`{filter}` does not begin with `spBv1.0/`, as Sparkplug's topics do"))
                .help("for all groups: `spBv1.0/#`");
        }
        let topic = self.topic(problems)?;
        if let Err(error) = check_name(&topic) {
            problems.error(topic.place, error).help("the topic of Sparkplug metrics has no variables");
        }
        let mut template = |text: &str, place: Place| Template::compile(text, place, problems, sparkplug::Variable::parse);
        let own = self.own();
        let place = |said: &Option<Spanned<String>>| said.as_ref().map_or(self.subscription.place, |said| said.place);
        let parts = [self.context.at.as_str(), own.at.as_ref().map_or("{group}/{node}/{device}", |at| at.as_str())];
        let at: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let at = template(&at.join("/"), place(&own.at));
        let tag = template(own.tag.as_ref().map_or("{metric}", |tag| tag.as_str()), place(&own.tag));
        let options = self.subscription.options.over(&self.context.options);
        let confirm = own.command.as_ref().and_then(|command| command.confirm).map(|confirm| confirm.0);
        Some(sparkplug::Route { id, filter: filter.clone(), topic: topic.value.into(), at: at?, tag: tag?, options, confirm })
    }

    /// Tags that are known before the first message: those whose paths have no variables. Two of one path are an error.
    pub fn known_tags(&self, route: &Route, tags: &mut Vec<TagDef>, problems: &mut Problems) {
        let mut add = |path: String, address: String, topic: &Template<Variable>, options: &Arc<TagOptions>, place: Place| {
            if let Some(earlier) = tags.iter().find(|tag| tag.path == path) {
                problems
                    .error(place, format!("two tags have the path `{path}`: {address} and {}", earlier.address))
                    .help("change `at` or the name");
            } else if let Some(topic) = topic.constant() {
                tags.push(TagDef { path, address, kind: None, topic: topic.into(), part: Arc::from(""), options: options.clone() });
            }
        };
        let constant = |template: &Template<Variable>| template.constant().map(str::to_owned);
        match &route.decode {
            Decode::Value(single) if route.filter.wildcards() == 0 => {
                let path = render_fixed(&single.path, route.filter.as_str());
                add(path, route.filter.to_string(), &route.topic, &single.options, self.subscription.place);
            }
            Decode::Samples(samples) if route.filter.wildcards() == 0 => {
                let at = render_fixed(&samples.at, route.filter.as_str());
                for item in samples.items.iter().filter(|item| !item.name.is_empty()) {
                    let path = if at.is_empty() { item.name.to_string() } else { format!("{at}/{}", item.name) };
                    let address = format!("{}#{}", route.filter, item.place);
                    add(path, address, &item.topic, &item.options, self.subscription.place);
                }
            }
            // Every topic would come to this one path.
            Decode::Value(single) => {
                if let Some(path) = constant(&single.path) {
                    problems
                        .error(self.subscription.place, format!("every topic of `{}` would be the tag `{path}`", route.filter))
                        .help("put `{1}` or `{topic}` into `tag` or `at`");
                }
            }
            Decode::Samples(samples) => {
                if let Some(path) = constant(&samples.at) {
                    problems
                        .error(
                            self.subscription.place,
                            format!("the samples of every topic of `{}` would be the same tags, in `{path}`", route.filter),
                        )
                        .help("put `{1}` or `{topic}` into `at`");
                }
            }
            Decode::Document(_) | Decode::Readings(_) | Decode::Senml(_) | Decode::Sparkplug => {}
        }
    }
}

/// A path of a filter without wildcards: its topic is the filter.
fn render_fixed(template: &Template<Variable>, topic: &str) -> String {
    let mut out = Vec::new();
    template
        .fill(&mut out, |_, out| {
            out.extend_from_slice(topic.as_bytes());
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
    String::from_utf8_lossy(&out).into_owned()
}

/// The subscription identifier of a filter: FNV-1a, so that a kept session's queued messages carry the same one in the next run.
fn subscription_id(filter: &str) -> u32 {
    let hash = filter.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ byte as u32).wrapping_mul(0x0100_0193));
    hash % 268_435_455 + 1
}
