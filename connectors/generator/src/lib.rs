//! A source that needs no device: values of known shapes at a known rate, for a first try, for tests and for benchmarks.
//!
//! - [`shape`]: the value with number n, computed from n and the seed alone.
//! - [`pace`]: how many values are due now.
//! - [`source`]: the session: position, faults on purpose, commands.
//!
//! Invariants: the same seed gives the same values; after any restart the next number follows the last durable one, so the `counter` shape
//! counts 0, 1, 2.. per tag without a gap or a repeat; filling a batch allocates nothing once it is warm.

pub mod pace;
pub mod shape;
pub mod source;

use millrace_config::{ByteSize, Percent, Period, Problems, Rate, Spanned};
use millrace_contract::{Compiled, Context, Guarantee, Model, Plan, Plugin, Role, Route, Source, TagDef};
use schemars::JsonSchema;
use serde::Deserialize;
use shape::{Recipe, Shape};
use source::{CompiledSource, Generator};
use std::sync::Arc;
use std::time::Duration;

/// Values of known shapes at a known rate, without any device.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratorConfig {
    /// How many tags there are. They are named after their shape: `sine-0`, `counter-1`, ...
    pub tags: Spanned<u32>,
    /// Values per second, all tags together: `10000/s`. Left out: as many as the log takes.
    pub rate: Option<Spanned<Rate>>,
    /// The shapes, dealt to the tags in turn.
    pub shapes: Spanned<Vec<Shape>>,
    /// The period of `sine`, `square` and `bool`.
    pub period: Spanned<Period>,
    /// Another seed gives other random values.
    pub seed: u64,
    /// Ends after so many values. Left out: never.
    pub count: Option<u64>,
    /// Writes documents instead of samples.
    pub documents: Option<Documents>,
    /// Adds the tag `setpoint`, which takes commands and echoes what it was set to.
    pub setpoint: bool,
    /// Faults on purpose.
    pub faults: Faults,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self {
            tags: Spanned::from(10),
            rate: None,
            shapes: Spanned::from(vec![Shape::Sine, Shape::Counter, Shape::Random]),
            period: Spanned::from(Period(Duration::from_secs(60))),
            seed: 0,
            count: None,
            documents: None,
            setpoint: false,
            faults: Faults::default(),
        }
    }
}

/// Documents instead of samples: JSON with the number, the key and some filling.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Documents {
    /// The size of a document, at least; a document is never smaller than its own fields.
    pub size: ByteSize,
}

/// Faults on purpose. Shares are of the values, chosen by the seed.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// This share comes without a value, status BadDeviceFailure.
    pub bad: Option<Percent>,
    /// This share of the floating-point values is NaN.
    pub nan: Option<Percent>,
    /// This share carries a time outside the clock's window: ten days ago or in a year, in turn.
    pub out_of_window: Option<Percent>,
    /// This share comes twice.
    pub duplicates: Option<Percent>,
    /// So many values at once, now and then, besides the rate.
    pub bursts: Option<Bursts>,
    /// The device hangs up this often.
    pub disconnect_every: Option<Spanned<Period>>,
}

/// Many values at once.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// How often.
    pub every: Spanned<Period>,
    /// How many values.
    pub values: u64,
}

/// The plugin `generator`.
pub struct GeneratorPlugin;

impl Plugin for GeneratorPlugin {
    const TYPE: &'static str = "generator";
    const ROLE: Role = Role::Source;
    type Config = GeneratorConfig;

    fn compile(config: GeneratorConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let errors_before = problems.iter().count();
        config.check(context, problems);
        if problems.iter().skip(errors_before).any(|p| p.severity == millrace_config::Severity::Error) {
            return None;
        }
        Some(Box::new(Load::new(config, context)))
    }
}

impl GeneratorConfig {
    fn check(&self, context: &Context, problems: &mut Problems) {
        if *self.tags == 0 {
            problems.error(self.tags.place, "`tags` is 0: nothing would come");
        }
        if *self.tags > 1_000_000 {
            problems
                .error(self.tags.place, format!("`tags` is {}: at most 1000000 in one source", *self.tags))
                .help("use several generators");
        }
        if self.shapes.is_empty() {
            problems
                .error(self.shapes.place, "`shapes` is empty")
                .help("leave it out, or name one: sine, counter, random, square, text, bool, array");
        }
        if let Some(rate) = &self.rate
            && !(rate.0.is_finite() && rate.0 > 0.0)
        {
            problems.error(rate.place, "`rate` must be more than 0").help("leave it out for as many as the log takes");
        }
        let periods = [Some(("period", &self.period)), self.faults.disconnect_every.as_ref().map(|p| ("disconnect_every", p))];
        let burst_every = self.faults.bursts.as_ref().map(|bursts| ("every", &bursts.every));
        for (key, period) in periods.into_iter().chain([burst_every]).flatten() {
            if period.value.0.is_zero() {
                problems.error(period.place, format!("`{key}` must be more than 0"));
            }
        }
        if let Some(documents) = &self.documents
            && documents.size.0 > MAX_DOCUMENT_BYTES
        {
            problems.error(context.place, format!("documents of {} bytes are too large: at most {MAX_DOCUMENT_BYTES}", documents.size.0));
        }
        if context.topic_of(&context.options).is_none() {
            problems
                .error(context.place, format!("source `{}` has no topic", context.name))
                .help("add `topic:`, the Kafka topic of its records");
        }
    }
}

const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// A compiled generator.
struct Load {
    job: Arc<CompiledSource>,
    model: Model,
    plan: Plan,
}

impl Load {
    fn new(config: GeneratorConfig, context: &Context) -> Self {
        let topic = context.topic_of(&context.options).unwrap_or_else(|| Arc::from(""));
        let options = Arc::new(context.options.clone());
        let tag = |name: String, kind: &str, options: &Arc<_>| TagDef {
            path: context.tag_path(&name),
            address: name,
            kind: Some(kind.to_owned()),
            topic: topic.clone(),
            part: Arc::from(source::DEVICE),
            options: Arc::clone(options),
        };
        let shapes = &config.shapes;
        let names = |n: u32| {
            let shape = shapes[n as usize % shapes.len()];
            (format!("{}-{n}", shape.name()), shape)
        };
        let mut model = Model::default();
        if config.documents.is_some() {
            model.routes.push(Route { topic: topic.clone(), name: "documents".into(), samples: false });
        } else {
            model.tags.extend((0..*config.tags).map(names).map(|(name, shape)| tag(name, shape.kind(), &options)));
        }
        if config.setpoint {
            let writable = Arc::new(millrace_contract::TagOptions { writable: Some(true), ..context.options.clone() });
            model.tags.push(tag(source::SETPOINT.into(), "f64", &writable));
        }

        let per_s = config.rate.as_ref().map(|rate| rate.0);
        let what = match &config.documents {
            Some(documents) => format!("documents of {} bytes, {} keys", documents.size.0, *config.tags),
            None => {
                let shapes: Vec<_> = config.shapes.iter().map(|shape| shape.name()).collect();
                format!("{} tags: {}", *config.tags, shapes.join(", "))
            }
        };
        let mut lines = vec![what];
        lines.extend(config.count.map(|count| format!("ends after {count} values")));
        lines.extend(config.setpoint.then(|| "takes commands on `setpoint`".to_owned()));
        let plan = Plan { endpoint: "generated here".into(), lines, rate: per_s };

        // Rounds (one value of each tag) in a period: how far a sine moves from one value of its tag to the next.
        let rounds = per_s.unwrap_or(1000.0) * config.period.as_secs_f64() / f64::from(*config.tags);
        let share = |share: Option<Percent>| share.map_or(0.0, |share| share.0 / 100.0);
        let recipe = Recipe {
            seed: config.seed,
            tags: *config.tags,
            shapes: config.shapes.value.clone(),
            rounds_per_period: rounds.max(2.0),
            bad: share(config.faults.bad),
            nan: share(config.faults.nan),
            out_of_window: share(config.faults.out_of_window),
            duplicates: share(config.faults.duplicates),
        };
        let job = CompiledSource {
            tags: model.tags.clone(),
            recipe,
            per_s,
            bursts: config.faults.bursts.as_ref().map(|bursts| (bursts.every.0, bursts.values)),
            disconnect_every: config.faults.disconnect_every.as_ref().map(|every| every.0),
            count: config.count,
            document_bytes: config.documents.map(|documents| documents.size.0 as usize),
            setpoint: config.setpoint,
        };
        Self { job: Arc::new(job), model, plan }
    }
}

impl Compiled for Load {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Generator::new(self.job.clone())))
    }

    fn reads_again(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce("the number of the next value is kept with the data".into())
    }

    fn plan(&self) -> Plan {
        self.plan.clone()
    }
}
