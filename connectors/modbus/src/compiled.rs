//! What a source will do, made of its YAML without I/O: units, points, and the jobs that read them.
//!
//! ```text
//! Polled (the kit's)     devices ── groups ── tags                    paths, options, triggers
//! CompiledSource         units   ── jobs   ── points (one per tag)    a job: groups of one unit with one interval, read in one cycle
//! ```

use crate::config::{BusConfig, CloseAfter, SourceConfig, TransactionId};
use crate::device::{BitWrite, DeviceKeys, UnitCheck, WriteWith};
use crate::endpoint::{Endpoint, WrongEndpoint};
use crate::line::LineSettings;
use crate::planner::{Limits, Piece};
use crate::point::{Modbus, Point, piece};
use millrace_config::{Period, Place, Problems, Spanned};
use millrace_contract::{Context, Model, Report, SourceIo, TagDef, TagOptions};
use millrace_kit::polled::{self, PolledOf, Tag};
use millrace_schemas::TagId;
use std::sync::Arc;
use std::time::Duration;

/// Everything a source does.
#[derive(Debug)]
pub struct CompiledSource {
    pub name: String,
    pub endpoint: Endpoint,
    pub line: LineSettings,
    pub connect_timeout: Duration,
    pub close_after_cycle: bool,
    pub writes_allowed: bool,
    pub polled: PolledOf<Modbus>,
    pub units: Vec<Unit>,
    pub jobs: Vec<Job>,
}

/// One device on the line.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The device's name; of a source without `devices` its own.
    pub name: Arc<str>,
    pub id: u8,
    /// The file gives its `unit_id`.
    pub is_named: bool,
    pub limits: Limits,
    pub any_unit: bool,
    pub write_with: Option<WriteWith>,
    pub bit_write: BitWrite,
    /// The key of what was learnt about it.
    pub position: String,
}

/// Groups of one unit that are read in one cycle.
#[derive(Clone, Debug)]
pub struct Job {
    pub unit: usize,
    /// Of a triggered group the one; it is read per event, not every so often.
    pub groups: Vec<usize>,
    pub every: Duration,
    pub align: bool,
    pub is_triggered: bool,
    pub pieces: Vec<Piece>,
}

const TIMEOUT_MOST: Duration = Duration::from_secs(60);
const MAX_GAP: u16 = 16;
const IN_FLIGHT_MOST: u16 = 16;

/// Compiles a source. `None` after an error.
pub fn compile(config: &SourceConfig, context: &Context, problems: &mut Problems) -> Option<CompiledSource> {
    let mark = problems.mark();
    let (keys, shared) = (&config.shared, &config.own);
    let endpoint: Option<Endpoint> = match keys.endpoint.parse() {
        Ok(endpoint) => Some(endpoint),
        Err(wrong) => {
            problems.refused(keys.endpoint.place, &WrongEndpoint::to_string(&wrong));
            None
        }
    };
    check_device(shared, problems);
    for device in keys.devices.values() {
        check_device(&device.own.own, problems);
    }
    let protocol = Modbus { shared: shared.clone() };
    let polled = polled::compile(&protocol, &keys.groups, &keys.devices, context, problems);
    if keys.groups.is_empty() && keys.devices.is_empty() {
        problems
            .error(context.place, format!("source `{}` has neither `groups` nor `devices`: nothing would be read", context.name))
            .help("add `groups: [{every: 1s, tags: {speed: \"holding:100\"}}]`");
    }
    let endpoint = endpoint?;
    let bus = keys.bus.as_ref().map(|bus| bus.value.clone()).unwrap_or_default();
    let line = line_settings(&bus, &endpoint, problems);
    let units = units(config, &endpoint, &polled, context, problems);
    let jobs = jobs(&polled, &units);
    let source = CompiledSource {
        name: context.name.clone(),
        line,
        connect_timeout: bus.connect_timeout.0,
        close_after_cycle: bus.close_after == CloseAfter::Cycle,
        writes_allowed: context.writes_allowed,
        endpoint,
        polled,
        units,
        jobs,
    };
    (!problems.has_errors_since(mark)).then_some(source)
}

fn line_settings(bus: &BusConfig, endpoint: &Endpoint, problems: &mut Problems) -> LineSettings {
    let (none, one) = (Duration::ZERO, Duration::from_millis(1));
    for (key, period, least) in [
        ("timeout", &bus.timeout, one),
        ("pause", &bus.pause, none),
        ("connect_delay", &bus.connect_delay, none),
        ("connect_timeout", &bus.connect_timeout, one),
    ] {
        if !(least..=TIMEOUT_MOST).contains(&period.0) {
            problems.error(period.place, format!("`{key}` is from {} to {}", Period(least), Period(TIMEOUT_MOST)));
        }
    }
    let ids = bus.transaction_id == TransactionId::Echoed;
    let in_flight = &bus.in_flight;
    if !(1..=IN_FLIGHT_MOST).contains(&in_flight.value) {
        problems.error(in_flight.place, format!("`in_flight` is from 1 to {IN_FLIGHT_MOST}"));
    }
    if in_flight.value > 1 && !(ids && matches!(endpoint, Endpoint::Tcp { .. })) {
        problems
            .error(in_flight.place, "several requests in flight need transaction ids, which only `tcp://` has, and echoed ones")
            .help("leave out `in_flight`");
    }
    LineSettings {
        timeout: bus.timeout.0,
        pause: bus.pause.0,
        connect_delay: bus.connect_delay.0,
        in_flight: in_flight.value.into(),
        ids,
        echo: bus.echo,
    }
}

fn check_device(keys: &DeviceKeys, problems: &mut Problems) {
    let mut between = |key: &str, value: Option<(u16, Place)>, low: u16, high: u16| {
        if let Some((value, place)) = value
            && !(low..=high).contains(&value)
        {
            problems.error(place, format!("`{key}` is from {low} to {high}"));
        }
    };
    between("max_registers", keys.max_registers.as_ref().map(|n| (n.value, n.place)), 1, 125);
    between("max_bits", keys.max_bits.as_ref().map(|n| (n.value, n.place)), 1, 2000);
    between("max_gap", keys.max_gap.as_ref().map(|n| (n.value, n.place)), 0, 124);
    if let Some(bits) = keys.register_bits.as_ref().filter(|bits| !matches!(bits.value, 16 | 32)) {
        problems.error(bits.place, "`register_bits` is 16 or 32");
    }
}

/// The source's own groups are unit 0 of the list, where there are any; then come the devices.
fn units(config: &SourceConfig, endpoint: &Endpoint, polled: &PolledOf<Modbus>, context: &Context, problems: &mut Problems) -> Vec<Unit> {
    let mut units = Vec::new();
    let shared = &config.own;
    if polled.groups.iter().any(|group| group.device.is_none()) {
        units.push(unit(&context.name, shared, &DeviceKeys::default(), endpoint, context.place, problems));
    } else if let Some(unit_id) = &shared.unit_id {
        problems.error(unit_id.place, "`unit_id` of the source has no use: its devices have their own").help("move it to a device");
    }
    for device in &polled.devices {
        let own = DeviceKeys { unit_id: None, ..shared.clone() };
        units.push(unit(&device.name, &device.own, &own, endpoint, device.place, problems));
    }
    units
}

fn unit(name: &str, own: &DeviceKeys, outer: &DeviceKeys, endpoint: &Endpoint, place: Place, problems: &mut Problems) -> Unit {
    let is_direct = matches!(endpoint, Endpoint::Tcp { .. });
    let id = match &own.unit_id {
        Some(id) => id.value,
        None if is_direct => 255,
        None => {
            problems.error(place, format!("`{name}` has no `unit_id`, and a serial line has several units")).help("add `unit_id: 1`");
            1
        }
    };
    if let Some(id) = &own.unit_id
        && !is_direct
        && !(1..=247).contains(&id.value)
    {
        problems
            .error(id.place, format!("unit {} can't be read on a serial line", id.value))
            .help("units are 1 to 247; 0 is a broadcast, which nobody answers");
    }
    let of = |own: Option<&Spanned<u16>>, outer: Option<&Spanned<u16>>, default: u16| own.or(outer).map_or(default, |value| value.value);
    let register_bits = own.register_bits.as_ref().or(outer.register_bits.as_ref()).map_or(16, |bits| bits.value);
    Unit {
        name: name.into(),
        id,
        is_named: own.unit_id.is_some(),
        limits: Limits {
            registers: of(own.max_registers.as_ref(), outer.max_registers.as_ref(), 125),
            bits: of(own.max_bits.as_ref(), outer.max_bits.as_ref(), 2000),
            max_gap: of(own.max_gap.as_ref(), outer.max_gap.as_ref(), MAX_GAP),
            register_bytes: register_bits / 8,
        },
        any_unit: own.unit_check.or(outer.unit_check) == Some(UnitCheck::Zero),
        write_with: own.write_with.or(outer.write_with),
        bit_write: own.bit_write.or(outer.bit_write).unwrap_or_default(),
        position: format!("learnt/{name}"),
    }
}

fn jobs(polled: &PolledOf<Modbus>, units: &[Unit]) -> Vec<Job> {
    // Devices stand behind the source's own groups.
    let devices_from = units.len() - polled.devices.len();
    let mut jobs: Vec<Job> = Vec::new();
    for (number, group) in polled.groups.iter().enumerate() {
        let unit = group.device.map_or(0, |device| devices_from + device);
        let pieces = match &group.trigger {
            None => group.tags.clone().map(|tag| piece(polled, tag)).collect::<Vec<_>>(),
            Some(trigger) => trigger.fields.iter().map(|tag| piece(polled, *tag)).collect(),
        };
        let is_same = |job: &&mut Job| {
            !job.is_triggered && group.trigger.is_none() && (job.unit, job.every, job.align) == (unit, group.every, group.align)
        };
        match jobs.iter_mut().find(is_same) {
            Some(job) => {
                job.groups.push(number);
                job.pieces.extend(pieces);
            }
            None => jobs.push(Job {
                unit,
                groups: vec![number],
                every: group.every,
                align: group.align,
                is_triggered: group.trigger.is_some(),
                pieces,
            }),
        }
    }
    jobs
}

/// The tag that tells when a counter went back, beside it: `NAME/went_back`, the text `rolled_over` or `reset`.
fn went_back(tag: &Tag<Point>) -> Option<TagDef> {
    tag.address.counter?;
    let of = &tag.def.options;
    let options = TagOptions {
        report: Some(Report::All),
        description: Some(format!("when {} went back: rolled_over or reset", tag.def.path)),
        topic: of.topic.clone(),
        labels: of.labels.clone(),
        ..TagOptions::default()
    };
    let path = format!("{}/went_back", tag.def.path);
    Some(TagDef { path, kind: Some("text".into()), part: "".into(), options: Arc::new(options), ..tag.def.clone() })
}

impl CompiledSource {
    /// What is known of its tags and topics.
    pub fn model(&self) -> Model {
        let mut model = self.polled.model();
        model.tags.extend(self.polled.tags.iter().filter(|tag| !self.polled.is_field(tag)).filter_map(went_back));
        model
    }

    /// Declares the tags that tell of counters; for each tag its own, or none.
    pub fn declare_went_back(&self, io: &SourceIo) -> Vec<TagId> {
        let declare = |tag: &Tag<Point>| went_back(tag).filter(|_| !self.polled.is_field(tag)).and_then(|def| io.declare(def).ok());
        self.polled.tags.iter().map(|tag| declare(tag).unwrap_or(TagId::NONE)).collect()
    }
}
