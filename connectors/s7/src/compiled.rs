//! The YAML compiled: endpoints, TSAPs, addresses; and what will be asked, for `millrace plan`. No I/O.

use crate::address::Address;
use crate::batching::{Batching, Cuts};
use crate::codec::Codec;
use crate::config::{InStop, SourceConfig};
use crate::connection::Dial;
use crate::tag::{S7, TagAddress};
use encoding_rs::Encoding;
use jiff::tz::TimeZone;
use millrace_config::{Place, Problems};
use millrace_contract::{Context, Model, TagDef, TagOptions};
use millrace_kit::groups::NoKeys;
use millrace_kit::polled::{self, Polled, Protocol};
use millrace_kit::time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Everything an S7 source needs.
#[derive(Debug)]
pub struct CompiledSource {
    pub dials: Vec<Dial>,
    pub polled: Polled<TagAddress, NoKeys, NoKeys>,
    pub addresses: Arc<[Address]>,
    pub codec: Codec,
    pub gap_bytes: u32,
    pub keep_alive: Duration,
    pub in_stop: InStop,
    pub cpu_tags: Vec<TagDef>,
    pub writes_allowed: bool,
    pub model: Model,
}

/// What is known of the CPU itself, as tags: in the order of [`CompiledSource::cpu_tags`].
pub const CPU_TAGS: [&str; 3] = ["cpu/state", "cpu/order_number", "cpu/firmware"];
/// The part that vouches for them.
pub const CPU_PART: &str = "cpu";

/// Compiles a source. `None` after an error.
pub fn compile(config: &SourceConfig, context: &Context, problems: &mut Problems) -> Option<CompiledSource> {
    let mark = problems.mark();
    let dials = dials(config, problems);
    let zone = match &config.timezone {
        None => Some(TimeZone::UTC),
        Some(name) => time::zone(name, name.place, problems),
    };
    let encoding = match &config.encoding {
        None => Some(encoding_rs::WINDOWS_1252),
        Some(label) => {
            let found = Encoding::for_label(label.as_bytes());
            if found.is_none() {
                problems
                    .error(label.place, format!("`{}` is not an encoding", label.value))
                    .help("write it as in windows-1252, windows-1250 or utf-8");
            }
            found
        }
    };
    if config.groups.is_empty() {
        problems
            .error(context.place, "the source has no `groups`: nothing would be read")
            .help(format!("add `groups: [{{every: 1s, tags: {{{}}}}}]`", S7::EXAMPLE));
    }
    let polled = polled::compile(&S7, &config.groups, &BTreeMap::new(), context, problems);
    let mut cpu_tags = Vec::new();
    if config.cpu_tags {
        match context.topic_of(&context.options) {
            None => _ = problems.error(context.place, "no topic for `cpu_tags`").help("add `topic: telemetry` to the source"),
            Some(topic) => cpu_tags.extend(CPU_TAGS.iter().map(|name| TagDef {
                path: context.tag_path(name),
                address: (*name).into(),
                kind: Some("STRING".into()),
                topic: topic.clone(),
                part: CPU_PART.into(),
                options: Arc::new(context.options.clone()),
            })),
        }
    }
    for def in &cpu_tags {
        if let Some(tag) = polled.tags.iter().find(|tag| tag.def.path == def.path) {
            problems.error(tag.place, format!("`{}` is one of `cpu_tags`", tag.name)).help("give the tag another name");
        }
    }
    check_writable(&polled, problems);
    let mut model = polled.model();
    model.tags.extend(cpu_tags.iter().cloned());
    let compiled = CompiledSource {
        dials: dials?,
        addresses: polled.tags.iter().map(|tag| tag.address.address).collect(),
        polled,
        codec: Codec { zone: zone?, encoding: encoding? },
        gap_bytes: config.max_gap.into(),
        keep_alive: config.keep_alive.0,
        in_stop: config.in_stop,
        cpu_tags,
        writes_allowed: context.writes_allowed,
        model,
    };
    check_intervals(&compiled, problems);
    (!problems.has_errors_since(mark)).then_some(compiled)
}

/// The port of ISO on TCP.
const PORT: u16 = 102;

fn dials(config: &SourceConfig, problems: &mut Problems) -> Option<Vec<Dial>> {
    let mark = problems.mark();
    let (rack, slot) = (config.rack.value, config.slot.value);
    if rack > 7 {
        problems.error(config.rack.place, format!("`{rack}` is not a rack: 0 to 7"));
    }
    if slot > 31 {
        problems.error(config.slot.place, format!("`{slot}` is not a slot: 0 to 31"));
    }
    let mut tsaps = (0x0100, config.connection.code() << 8 | u16::from(rack) << 5 | u16::from(slot));
    let mut named = format!("rack {rack}, slot {slot}");
    if let Some(tsap) = &config.tsap {
        let pair = tsap.split_once(':').and_then(|(own, remote)| Some((parse_tsap(own)?, parse_tsap(remote)?)));
        match pair {
            Some(pair) => (tsaps, named) = (pair, format!("TSAP {}", tsap.value)),
            None => {
                _ = problems
                    .error(tsap.place, format!("`{}` is not a pair of TSAPs", tsap.value))
                    .help("write it as in `10.00:20.00`, own and remote")
            }
        }
    }
    if !(240..=960).contains(&config.pdu.value) && config.pdu.value != 112 {
        problems.error(config.pdu.place, format!("`pdu` is from 240 to 960, not {}", config.pdu.value));
    }
    if !(1..=32).contains(&config.jobs.value) {
        problems.error(config.jobs.place, format!("`jobs` is from 1 to 32, not {}", config.jobs.value));
    }
    bounded("timeout", &config.timeout, Duration::from_millis(50), Duration::from_secs(60), problems);
    bounded("keep_alive", &config.keep_alive, Duration::from_millis(100), Duration::from_secs(3600), problems);
    if config.endpoint.0.is_empty() {
        problems.error(config.endpoint.place, "`endpoint` names no device");
    }
    let dial = |endpoint: &millrace_config::Spanned<String>, problems: &mut Problems| Dial {
        endpoint: with_port(endpoint, endpoint.place, problems),
        own_tsap: tsaps.0,
        remote_tsap: tsaps.1,
        named: named.clone(),
        pdu: config.pdu.value,
        jobs: config.jobs.value,
        timeout: config.timeout.0,
    };
    let dials = config.endpoint.0.iter().map(|endpoint| dial(endpoint, problems)).collect();
    (!problems.has_errors_since(mark)).then_some(dials)
}

fn bounded(
    key: &str,
    period: &millrace_config::Spanned<millrace_config::Period>,
    least: Duration,
    most: Duration,
    problems: &mut Problems,
) {
    if period.0 < least || period.0 > most {
        problems.error(period.place, format!("`{key}` is from {least:?} to {most:?}"));
    }
}

/// `host` or `host:port`; an IPv6 address with a port in brackets.
fn with_port(endpoint: &str, place: Place, problems: &mut Problems) -> String {
    let text = endpoint.strip_prefix("s7://").unwrap_or(endpoint);
    if text.contains("://") || text.is_empty() || text.contains('/') {
        problems.error(place, format!("`{endpoint}` is not a host and a port")).help("write it as in `10.0.0.7:102`");
        return text.into();
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            if port.parse::<u16>().is_err() {
                problems.error(place, format!("`{port}` is not a port"));
            }
            text.into()
        }
        Some(_) if !text.ends_with(']') => format!("[{text}]:{PORT}"),
        _ => format!("{text}:{PORT}"),
    }
}

/// `20.00`, `2000` or `0x2000`: two bytes, hexadecimal, as the projects show them.
pub fn parse_tsap(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    match digits.split_once('.') {
        Some((high, low)) if (1..=2).contains(&high.len()) && (1..=2).contains(&low.len()) => {
            Some(u16::from_str_radix(high, 16).ok()? << 8 | u16::from_str_radix(low, 16).ok()?)
        }
        None if digits.len() == 4 => u16::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// Commands write single values.
fn check_writable(polled: &Polled<TagAddress, NoKeys, NoKeys>, problems: &mut Problems) {
    for tag in &polled.tags {
        let TagOptions { writable, .. } = *tag.def.options;
        if writable == Some(true) && tag.address.address.count.is_some() {
            problems.error(tag.place, format!("`{}` is an array, and an array is not written as a whole", tag.name));
        }
    }
}

/// A job that takes less has not been seen.
const JOB_LEAST: Duration = Duration::from_millis(1);
/// What a job takes on common CPUs.
const JOB_USUAL: Duration = Duration::from_millis(5);

/// An interval that no CPU can keep is an error before anything is asked.
fn check_intervals(compiled: &CompiledSource, problems: &mut Problems) {
    let Some(dial) = compiled.dials.first() else { return };
    for (number, group) in compiled.polled.groups.iter().enumerate() {
        let jobs = compiled.batching(number, dial.pdu).jobs.len() as u32;
        let least = JOB_LEAST * jobs / u32::from(dial.jobs);
        if group.trigger.is_none() && least > group.every {
            problems
                .error(group.place, format!("the group takes {jobs} jobs, at least {least:?}, and is to be read every {:?}", group.every))
                .help("read it less often, or move tags into slower groups");
        }
    }
}

impl CompiledSource {
    pub fn batching(&self, group: usize, pdu: u16) -> Batching {
        Batching::new(&self.addresses, self.polled.groups[group].tags.clone(), pdu, self.gap_bytes, &Cuts::new())
    }

    /// What will be asked, line by line.
    pub fn lines(&self) -> Vec<String> {
        let Some(dial) = self.dials.first() else { return Vec::new() };
        let mut lines = vec![format!(
            "connects to {} (TSAP {:04x}), asks for a PDU of {} bytes and {} jobs in flight; the CPU may lower both",
            dial.named, dial.remote_tsap, dial.pdu, dial.jobs
        )];
        for (number, group) in self.polled.groups.iter().enumerate() {
            let (asked, small) = (self.batching(number, dial.pdu), self.batching(number, 240));
            let when = match &group.trigger {
                Some(trigger) => format!("when {}", trigger.describe(&self.polled.tags)),
                None => format!("every {:?}", group.every),
            };
            let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
            let usual = JOB_USUAL * (small.jobs.len() as u32);
            lines.push(format!(
                "{when}: {} in {} with a PDU of {}, {} with one of 240 (about {usual:?} at {JOB_USUAL:?} a job)",
                count(group.tags.len(), "tag"),
                count(asked.jobs.len(), "job"),
                dial.pdu,
                small.jobs.len()
            ));
            for job in 0..asked.jobs.len() {
                let items: Vec<String> = asked.jobs[job].iter().map(|piece| self.describe(&asked, *piece)).collect();
                lines.push(format!("  job {}, {} bytes on the wire: {}", job + 1, asked.bytes(job), items.join("; ")));
            }
            if let Some(ack) = group.trigger.as_ref().and_then(|trigger| trigger.ack.as_ref()) {
                let tag = &self.polled.tags[ack.tag];
                lines.push(format!("  then writes {} ({}) to acknowledge", tag.def.address, tag.name));
            }
        }
        lines
    }

    /// An item and its tags: `DB1.DBB0..12 (zone1, burner)`.
    fn describe(&self, batching: &Batching, piece: usize) -> String {
        /// Names of a long item that are written out.
        const NAMES_MOST: usize = 8;
        let piece = &batching.pieces[piece];
        let tags = batching.tags(piece);
        let mut names: Vec<&str> = tags.iter().take(NAMES_MOST).map(|tag| &*self.polled.tags[*tag].name).collect();
        let more = format!("and {} more", tags.len().saturating_sub(NAMES_MOST));
        if tags.len() > NAMES_MOST {
            names.push(&more);
        }
        let item = &piece.item;
        let first = Address { kind: crate::datatype::DataType::Byte, count: None, ..self.addresses[tags[0]] };
        let place = if item.area.counts_elements() {
            format!("{}, {} of them", self.addresses[tags[0]], item.len / 2)
        } else {
            format!("{}..{}", Address { byte: item.byte, ..first }, item.byte + u32::from(item.len))
        };
        format!("{place} ({})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tsaps_are_hexadecimal_as_the_projects_show_them() {
        assert_eq!(parse_tsap("20.00"), Some(0x2000));
        assert_eq!(parse_tsap("10.01"), Some(0x1001));
        assert_eq!(parse_tsap("0x0201"), Some(0x0201));
        assert_eq!(parse_tsap("4D57"), Some(0x4D57));
        assert_eq!(parse_tsap("20"), None);
        assert_eq!(parse_tsap("xx.00"), None);
    }
}
