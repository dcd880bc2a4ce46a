//! The keys of a route of JSON records, checked and compiled.

use super::{Document, Item, Making, Readings, Samples, Shape, Variable};
use crate::AllowedTopics;
use crate::extract::{
    Each, Extraction, Missing, Name, Notation, Nulls, Places, Pointer, Rules, SampleConfig, SamplesConfig, StatusAt, StatusConfig, TimeAt,
    Wanted,
};
use crate::groups::SharedKeys;
use crate::template::Template;
use crate::time::{Clock, TimeConfig};
use crate::topics::check_name;
use millrace_config::{Place, Problems, Short, Spanned};
use millrace_contract::{Context, Structure, TagDef, TagOptions, Tagged};
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;

/// What becomes of the records of a route.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordKeys {
    /// Where the tags stand, below the source's own `at`.
    pub at: Option<Spanned<String>>,
    /// The tag of a reading (with `value` or `samples`): `{/id}` is a JSON Pointer into it, `{key}` the member's name or the item's number.
    pub tag: Option<Spanned<String>>,
    /// The key of documents; `{/id}` is a JSON Pointer into the record.
    pub key: Option<Spanned<String>>,
    /// Where the list of readings stands in a record, or an object whose members are the readings; `""` where the record is the list. Several pointers
    /// lead down level by level. `value` or `samples` point into a reading; what `tag`, `at`, `time` and `status` point to is looked for in the
    /// reading, then in what is around it.
    pub each: Option<Places>,
    /// The value of a reading by its JSON Pointer; of several the one that is there: `[/v, /vs, /vb]`. Goes with `tag`.
    pub value: Option<Places>,
    /// Tags out of a record, each by its JSON Pointer: `speed: /v/kmh`; `""` is the whole record. An object becomes a tag for each field.
    pub samples: Option<Spanned<SamplesConfig>>,
    /// The time in a record. Without it, samples have the time they were read.
    pub time: Option<Spanned<TimeConfig>>,
    /// The status in a record by its JSON Pointer, and how it is written.
    pub status: Option<Spanned<Short<StatusConfig>>>,
    /// The decimal sign of numbers that stand as text: `"."` (default) or `","`.
    pub decimal: Option<Spanned<String>>,
    /// Between groups of three digits of such numbers: `"."`, `","`, `" "` or `"'"`.
    pub grouping: Option<Spanned<String>>,
    /// Values that stand for none, as in `["---", "-9999"]`: null, BadNoData; or each with its status: `{"---": bad}`.
    pub nulls: Option<Nulls>,
    /// What a pointer that isn't in a record means: `bad` (default), a sample without value, status BadNotFound, after `bad_after`; or `skip`.
    pub missing: Missing,
}

impl SharedKeys for RecordKeys {
    const KEYS: &'static [&'static str] =
        &["at", "tag", "key", "each", "value", "samples", "time", "status", "decimal", "grouping", "nulls", "missing"];
}

/// One route being compiled.
#[derive(Clone, Copy, Debug)]
pub struct Compile<'a> {
    pub keys: &'a RecordKeys,
    /// The route's own tag options.
    pub options: &'a TagOptions,
    pub place: Place,
    pub route: RouteId,
    /// What the records are, for a person: `post /orders`.
    pub what: &'a str,
    /// Names in braces that the connector fills in.
    pub given: &'a [String],
    pub allowed: &'a Arc<AllowedTopics>,
    pub context: &'a Context,
}

/// What a template may use, beside what the connector gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uses {
    /// Nothing else.
    Given,
    /// JSON pointers into the record.
    Record,
    /// JSON pointers into a reading, and its key.
    Reading,
}

impl Compile<'_> {
    /// Compiles the route. What is wrong is a problem at its place.
    pub fn run(&self, problems: &mut Problems) -> Option<Making> {
        let keys = self.keys;
        let Some(topic) = self.options.topic.as_deref().or(self.context.topic.as_deref()) else {
            problems.error(self.place, format!("no `topic` for {}", self.what)).help("add `topic: NAME`, here or at the source");
            return None;
        };
        let topic = self.kafka_topic(topic, self.place, problems)?;
        self.refuse_unused(problems);
        let shape = if keys.tag.is_some() || keys.each.is_some() || keys.value.is_some() {
            Shape::Readings(Box::new(self.readings(&topic, problems)?))
        } else if let Some(samples) = &keys.samples {
            Shape::Samples(Box::new(self.samples(samples, &topic, problems)?))
        } else {
            Shape::Document(Box::new(self.document(problems)?))
        };
        Some(Making { route: self.route, what: self.what.into(), topic, allowed: self.allowed.clone(), shape })
    }

    fn refuse_unused(&self, problems: &mut Problems) {
        let keys = self.keys;
        let is_document = keys.tag.is_none() && keys.each.is_none() && keys.value.is_none() && keys.samples.is_none();
        let mut refuse = |place: Option<Place>, key: &str, why: &str| {
            if let Some(place) = place {
                problems.error(place, format!("`{key}` has no use here: {why}"));
            }
        };
        if is_document {
            refuse(keys.at.as_ref().map(|at| at.place), "at", "a document has no tag path; add `samples`, or `tag` and `value`");
            refuse(keys.status.as_ref().map(|status| status.place), "status", "it goes with `samples` or `value`");
        } else {
            refuse(keys.key.as_ref().map(|key| key.place), "key", "samples have the key their topic says");
        }
    }

    /// The template of a Kafka topic.
    pub fn kafka_topic(&self, topic: &str, place: Place, problems: &mut Problems) -> Option<Template<Variable>> {
        let template = self.template(topic, place, Uses::Given, problems)?;
        if let Some(name) = template.constant()
            && let Err(error) = check_name(name)
        {
            problems.error(place, error).help("letters, digits, `.`, `_` and `-`");
        }
        Some(template)
    }

    /// A template of this route.
    pub fn template(&self, text: &str, place: Place, uses: Uses, problems: &mut Problems) -> Option<Template<Variable>> {
        Template::compile(text, place, problems, |name| {
            if let Some(given) = self.given.iter().position(|given| given == name) {
                return Ok(Variable::Given(given));
            }
            match (name, uses) {
                ("key", Uses::Reading) => Ok(Variable::Name(Name::Key)),
                ("key", _) => Err("only the tag of a reading knows `{key}`".into()),
                (pointer, Uses::Given) if pointer.starts_with('/') => {
                    Err("only `key`, and the tag of a reading, take JSON pointers".into())
                }
                (pointer, _) if pointer.starts_with('/') => Pointer::parse(pointer).map(|pointer| Variable::Name(Name::Pointer(pointer))),
                _ if self.given.is_empty() => Err("nothing is known by this name; a JSON pointer begins with `/`".into()),
                _ => Err(format!("nothing is known by this name; there are {}", self.given.join(", ")).into()),
            }
        })
    }

    /// The path made of the source's `at`, the route's, and a tag's name.
    pub fn path(&self, tag: Option<&Spanned<String>>, uses: Uses, problems: &mut Problems) -> Option<Template<Variable>> {
        let parts = [Some(self.context.at.as_str()), self.keys.at.as_ref().map(|at| at.as_str()), tag.map(|tag| tag.as_str())];
        let text: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let place = tag.or(self.keys.at.as_ref()).map_or(self.place, |said| said.place);
        let path = text.join("/");
        if path.split('/').any(str::is_empty) && !path.is_empty() {
            problems.error(place, format!("the tag path `{path}` has an empty level"));
        }
        self.template(&path, place, uses, problems)
    }

    fn document(&self, problems: &mut Problems) -> Option<Document> {
        let key = match &self.keys.key {
            None => None,
            Some(key) => Some(self.template(key, key.place, Uses::Record, problems)?),
        };
        let pointers: Vec<_> = key
            .iter()
            .flat_map(Template::variables)
            .filter_map(|variable| match variable {
                Variable::Name(Name::Pointer(pointer)) => Some((pointer, Some(Structure::Json))),
                _ => None,
            })
            .collect();
        let extraction = Extraction::new(pointers, self.clock(problems)?, None);
        Some(Document { extraction, key })
    }

    /// The outer `None`: there is one, and it is wrong.
    #[allow(clippy::option_option)]
    fn clock(&self, problems: &mut Problems) -> Option<Option<TimeAt>> {
        let Some(time) = &self.keys.time else { return Some(None) };
        let pointers = time.at.pointers(problems);
        let clock = Clock::compile(time, problems);
        Some(Some(TimeAt { pointers: pointers?, clock: clock? }))
    }

    /// As [`Self::clock`].
    #[allow(clippy::option_option)]
    fn status(&self, problems: &mut Problems) -> Option<Option<StatusAt>> {
        let Some(status) = &self.keys.status else { return Some(None) };
        Some(Some(StatusAt { pointer: Pointer::compile(&status.at, problems)?, notation: status.notation() }))
    }

    /// One value: what is known of it, and where it is to be found.
    pub fn item(
        &self,
        name: &str,
        sample: &Spanned<Tagged<Short<SampleConfig>>>,
        topic: &Template<Variable>,
        problems: &mut Problems,
    ) -> Option<(Item, Wanted)> {
        if name.split('/').any(str::is_empty) && !name.is_empty() {
            problems.error(sample.place, format!("the name `{name}` has an empty level"));
        }
        let topic = match &sample.options.topic {
            None => topic.clone(),
            Some(topic) => self.kafka_topic(topic, sample.place, problems)?,
        };
        let options = sample.options.over(&self.options.over(&self.context.options));
        let pointers = sample.own.at.pointers(problems)?;
        let rules = Rules::of(&sample.own, &options, self.notation(problems), self.keys.nulls.as_ref());
        let (declared, map) = (rules.declared, rules.map.clone());
        let place = sample.own.at.to_string().into();
        let wanted = Wanted { pointers, structure: options.structure, rules };
        Some((Item { name: name.into(), place, declared, map, topic, options: Arc::new(options) }, wanted))
    }

    /// How numbers that stand as text are written.
    pub fn notation(&self, problems: &mut Problems) -> Notation {
        Notation::compile(self.keys.decimal.as_ref(), self.keys.grouping.as_ref(), problems)
    }

    fn samples(&self, samples: &Spanned<SamplesConfig>, topic: &Template<Variable>, problems: &mut Problems) -> Option<Samples> {
        if samples.is_empty() {
            problems.error(samples.place, "`samples` is empty").help("name a tag and its JSON pointer: `speed: /v/kmh`");
        }
        let found: Vec<_> = samples.iter().filter_map(|(name, sample)| self.item(name, sample, topic, problems)).collect();
        let (items, wanted): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let extraction = Extraction::new(wanted, self.clock(problems)?, self.status(problems)?);
        Some(Samples { at: self.path(None, Uses::Given, problems)?, items, extraction, missing: self.keys.missing })
    }

    fn readings(&self, topic: &Template<Variable>, problems: &mut Problems) -> Option<Readings> {
        let keys = self.keys;
        let place = keys.each.as_ref().or(keys.value.as_ref()).map_or(self.place, Places::first);
        let path = self.path(keys.tag.as_ref(), Uses::Reading, problems)?;
        let names: Vec<_> = path
            .variables()
            .filter_map(|variable| match variable {
                Variable::Name(Name::Pointer(pointer)) => Some(pointer.clone()),
                _ => None,
            })
            .collect();
        let names_one = path.variables().any(|variable| matches!(variable, Variable::Name(_)));
        if !names_one && (keys.each.is_some() || path.constant() == Some("")) {
            let which = if keys.each.is_some() {
                "`each` wants `tag`, the name of each reading: they"
            } else {
                "a reading wants `tag`, its name: without one they"
            };
            problems
                .error(place, format!("{which} would all be one tag"))
                .help("as in `tag: \"{/id}\"`, or with `each` `tag: \"{key}\"` for the members of an object");
        }
        let mut found = Vec::new();
        for (name, sample) in keys.samples.iter().flat_map(|samples| &samples.value) {
            found.push(self.item(name, sample, topic, problems)?);
        }
        match (&keys.value, found.is_empty()) {
            (Some(value), true) => {
                let config = SampleConfig { at: value.clone(), declared: None, nulls: None, map: None };
                let sample = Tagged { own: Short(config), options: TagOptions::default() };
                found.push(self.item("", &Spanned { value: sample, place }, topic, problems)?);
            }
            (Some(value), false) => {
                _ = problems.error(value.first(), "`value` and `samples` both say what a reading's values are; leave one out");
            }
            (None, true) => {
                problems.error(place, "nothing says where a reading's value stands").help("add `value: /v`, or `samples`");
            }
            (None, false) => {}
        }
        let (items, wanted): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let levels = match &keys.each {
            Some(each) => each.pointers(problems)?,
            None => Vec::new(),
        };
        let each = Each::new(levels, wanted, names, self.clock(problems)?, self.status(problems)?);
        Some(Readings { path, items, each, missing: keys.missing })
    }
}

impl Making {
    /// The tags that are known before the first record, into a model. Two of one path are an error.
    pub fn known_tags(&self, tags: &mut Vec<TagDef>, place: Place, problems: &mut Problems) {
        let Shape::Samples(samples) = &self.shape else { return };
        let Some(at) = samples.at.constant() else { return };
        for item in samples.items.iter().filter(|item| !item.name.is_empty()) {
            let path = millrace_contract::plugin::tag_path(at, &item.name);
            let address = format!("{}#{}", self.what, item.place);
            if let Some(earlier) = tags.iter().find(|tag| tag.path == path) {
                problems
                    .error(place, format!("two tags have the path `{path}`: {address} and {}", earlier.address))
                    .help("change `at` or the name");
            } else if let Some(topic) = item.topic.constant() {
                tags.push(TagDef { path, address, kind: None, topic: topic.into(), part: Arc::from(""), options: item.options.clone() });
            }
        }
    }

    /// The topic as it is written, its names in braces.
    pub fn topic_text(&self, given: &[String]) -> String {
        let mut out = Vec::new();
        self.topic
            .fill(&mut out, |variable, out| {
                if let Variable::Given(n) = variable {
                    out.extend_from_slice(format!("{{{}}}", given[*n]).as_bytes());
                }
                Ok::<_, Infallible>(())
            })
            .unwrap_or_else(|never| match never {});
        String::from_utf8(out).unwrap_or_default()
    }
}
