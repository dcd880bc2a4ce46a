//! `millrace probe modbus ENDPOINT`: which units answer, what they say of themselves, how much they take in one request, and in which order their
//! bytes may be.
//!
//! Reads only, over one connection, one request at a time but for the moment in which it is found out whether several may be under way. `?unit=7` asks
//! that unit alone; `?at=holding:100` looks at the values from there on. What it finds about a device comes as a profile, which a device's `profile`
//! names; of a SunSpec device with its tags ([`crate::sunspec`]).

use crate::address::{Address, Table};
use crate::endpoint::{Endpoint, open};
use crate::line::{Event, Line, LineSettings, Outcome};
use crate::pdu::{Read, Request};
use crate::sunspec::{self, Walk};
use millrace_config::Reason;
use millrace_contract::found::Facts;
use millrace_contract::plugin::Looking;
use millrace_contract::{Browse, Findings};
use millrace_kit::registers::{Encoding, Order, WordType};
use millrace_schemas::{Batch, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// A unit that doesn't answer costs so much.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Requests that are sent without waiting, to see how many are answered.
const AT_ONCE: usize = 4;
/// Registers that are read together and one by one, to be compared.
const COMPARED: u16 = 8;
/// Units that are asked where none is named: those of devices that speak TCP themselves first.
const UNITS_TCP: [u8; 19] = [1, 255, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
const UNITS_SERIAL: std::ops::RangeInclusive<u8> = 1..=32;

/// Looks at a line and says what it found.
pub fn probe(request: Browse) -> Looking {
    Box::pin(async move { look(&request).await })
}

/// What is asked for beside the endpoint.
#[derive(Default)]
struct Wanted {
    unit: Option<u8>,
    at: Option<Address>,
}

async fn look(request: &Browse) -> Result<Findings, Reason> {
    let (url, wanted) = wanted(&request.url)?;
    let endpoint: Endpoint = url.parse().map_err(|wrong: crate::endpoint::WrongEndpoint| wrong.to_string())?;
    let stream = open(&endpoint, CONNECT).await?;
    let settings =
        LineSettings { timeout: TIMEOUT, pause: Duration::ZERO, connect_delay: Duration::ZERO, in_flight: 1, ids: true, echo: false };
    let mut probe = Probe { line: Line::new(stream, &endpoint, settings), data: Vec::new(), requests: 0 };
    let units: Vec<u8> = match wanted.unit {
        Some(unit) => vec![unit],
        None if matches!(endpoint, Endpoint::Tcp { .. }) => UNITS_TCP.to_vec(),
        None => UNITS_SERIAL.collect(),
    };
    let mut facts = Vec::new();
    let mut answering = Vec::new();
    let mut profiles = Vec::new();
    for unit in units {
        if probe.answers(unit).await? {
            answering.push(unit);
            let (about, profile) = probe.unit(unit, wanted.at).await?;
            facts.push((format!("unit {unit}"), Facts::Named(about)));
            let head = format!(
                "# What `millrace probe modbus {base}` found of unit {unit}. A device names it: `profile: FILE`.\n",
                base = request.url
            );
            profiles.push((format!("unit-{unit}"), head + &profile));
        }
    }
    if let (Endpoint::Tcp { .. }, Some(unit)) = (&endpoint, answering.first()) {
        probe.line.allow_at_once(AT_ONCE);
        let answered = probe.at_once(*unit).await;
        let said = match answered {
            1 => "1: leave `bus: {in_flight: ..}` out".to_owned(),
            most => format!("{most} of {AT_ONCE}: `bus: {{in_flight: {most}}}` is possible"),
        };
        facts.push(("requests at once".into(), Facts::One(json!(said))));
    }
    let none = "no unit answered; check the address, and on a serial line baud rate and parity; `?unit=N` asks one unit alone";
    let summary = if answering.is_empty() { json!(none) } else { json!(answering) };
    facts.insert(0, ("units that answer".into(), Facts::One(summary)));
    facts.push(("requests sent".into(), Facts::One(json!(probe.requests))));
    Ok(Findings { facts, profiles, ..Findings::default() })
}

/// Takes `unit` and `at` off the URL; what else stands there is the endpoint's.
fn wanted(url: &str) -> Result<(String, Wanted), Reason> {
    let Some((base, query)) = url.split_once('?') else { return Ok((url.into(), Wanted::default())) };
    let mut wanted = Wanted::default();
    let mut rest = Vec::new();
    for setting in query.split('&') {
        match setting.split_once('=') {
            Some(("unit", unit)) => wanted.unit = Some(unit.parse().map_err(|_| format!("`{setting}`: a unit is a number from 0 to 255"))?),
            Some(("at", at)) => {
                let at: Address = at.parse().map_err(|wrong: crate::address::WrongAddress| wrong.to_string())?;
                if at.table.is_bits() {
                    return Err(format!("`{setting}`: bits have no order; name a register").into());
                }
                wanted.at = Some(at);
            }
            _ => rest.push(setting),
        }
    }
    Ok((if rest.is_empty() { base.into() } else { format!("{base}?{}", rest.join("&")) }, wanted))
}

struct Probe {
    line: Line,
    data: Vec<u8>,
    requests: u64,
}

impl Probe {
    async fn ask(&mut self, unit: u8, request: Request) -> Result<Outcome, Reason> {
        while self.line.ready_at().is_none() {
            if let Event::Lost(lost) = self.line.next().await {
                return Err(format!("{lost}; the device may allow no further connection").into());
            }
        }
        self.requests += 1;
        self.line.send(self.requests, unit, true, request).await.map_err(|lost| lost.to_string())?;
        loop {
            match self.line.next().await {
                Event::Answer { outcome, .. } => {
                    self.data.clear();
                    self.data.extend_from_slice(self.line.data());
                    return Ok(outcome);
                }
                Event::Silent => {}
                Event::Lost(lost) => return Err(format!("{lost}; the device may allow no further connection").into()),
            }
        }
    }

    async fn read(&mut self, unit: u8, table: Table, start: u16, count: u16) -> Result<bool, Reason> {
        let read = Read { table, start, count, register_bytes: 2 };
        Ok(self.ask(unit, Request::Read(read)).await? == Outcome::Data)
    }

    /// Any answer counts, a refusal too.
    async fn answers(&mut self, unit: u8) -> Result<bool, Reason> {
        let read = Read { table: Table::Holding, start: 0, count: 1, register_bytes: 2 };
        Ok(match self.ask(unit, Request::Read(read)).await? {
            Outcome::Data => true,
            Outcome::Refused(exception) => !exception.is_from_a_gateway(),
            Outcome::Trouble(_) => false,
        })
    }

    /// What there is to say of a unit, and its profile.
    async fn unit(&mut self, unit: u8, at: Option<Address>) -> Result<(Vec<(String, Json)>, String), Reason> {
        let mut facts = Vec::new();
        let mut keys = vec![format!("unit_id: {unit}")];
        if let Some(name) = self.identity(unit).await? {
            facts.push(("identity".into(), json!(name)));
        }
        // A SunSpec device's registers begin at its marker, and lie in one piece.
        let marker = self.marker(unit).await?;
        let mut most = None;
        for table in Table::ALL {
            let from = match marker.filter(|_| table == Table::Holding) {
                Some(marker) => marker,
                None => at.filter(|at| at.table == table).map_or(0, |at| at.start),
            };
            if !self.read(unit, table, from, 1).await? {
                facts.push((table.as_str().into(), json!(format!("nothing at {from}"))));
                continue;
            }
            let largest = self.largest(unit, table, from).await?;
            facts.push((table.as_str().into(), json!(format!("{largest} in one request from {from} on"))));
            if !table.is_bits() {
                most = Some(most.unwrap_or(0).max(largest));
            }
        }
        keys.extend(most.filter(|most| *most < 125).map(|most| format!("max_registers: {most}")));
        if let Some(at) = at {
            let ranked = self.orders(unit, at).await?;
            let first = ranked.first().filter(|(order, ..)| *order != Order::Abcd && marker.is_none());
            keys.extend(first.map(|(order, ..)| format!("order: {}", order.as_str())));
            for (order, single, whole) in ranked {
                facts.push((format!("{at} as {}", order.as_str()), json!(format!("f32 {single}, i32 {whole}"))));
            }
            if self.is_wrong_over_gaps(unit, at).await? {
                facts.push(("read together".into(), json!("registers read together differ from the same read one by one: `max_gap: 0`")));
                keys.push("max_gap: 0".into());
            }
        }
        facts.push(("profile".into(), json!(format!("{{{}}}", keys.join(", ")))));
        let tags = match marker {
            Some(base) => self.sunspec(unit, base, &mut facts).await?,
            None => Vec::new(),
        };
        if !tags.is_empty() {
            keys.push("groups:\n  - every: 5s\n    tags:".into());
            keys.extend(tags.iter().map(|tag| format!("      {tag}")));
        }
        Ok((facts, keys.join("\n") + "\n"))
    }

    /// Where the marker of SunSpec is; `None`: the device has none.
    async fn marker(&mut self, unit: u8) -> Result<Option<u16>, Reason> {
        for at in sunspec::BASES {
            if self.read(unit, Table::Holding, at, 2).await? && self.data.starts_with(&sunspec::MARKER) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The tags of a SunSpec device, by its chain of models.
    async fn sunspec(&mut self, unit: u8, base: u16, facts: &mut Vec<(String, Json)>) -> Result<Vec<String>, Reason> {
        let mut walk = Walk::from(base);
        let mut trouble = None;
        while !walk.is_over {
            let read = Read { table: Table::Holding, start: walk.next(), count: 2, register_bytes: 2 };
            trouble = match self.ask(unit, Request::Read(read)).await? {
                Outcome::Data => walk.take(&self.data).err(),
                Outcome::Refused(exception) => Some(walk.refused(exception).into()),
                Outcome::Trouble(trouble) => return Err(format!("the SunSpec models of unit {unit} can't be read: {trouble}").into()),
            };
        }
        let said: Vec<String> = walk
            .models
            .iter()
            .map(|model| match sunspec::known(model.id) {
                Some((name, _)) => format!("{} {name} at {}", model.id, model.start),
                None => format!("{} at {} (its points are not known here)", model.id, model.start),
            })
            .collect();
        facts.push((format!("SunSpec at holding:{base}"), json!(said.join(", "))));
        facts.extend(trouble.map(|trouble| ("SunSpec".to_owned(), json!(trouble))));
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        let mut tags = Vec::new();
        for model in &walk.models {
            let Some((name, _)) = sunspec::known(model.id) else { continue };
            let count = names.entry(name).and_modify(|count| *count += 1).or_insert(1);
            let prefix = if *count == 1 { name.to_owned() } else { format!("{name}-{count}") };
            let mut factors = BTreeMap::new();
            for at in model.factors() {
                if self.read(unit, Table::Holding, at, 1).await?
                    && let Some(word) = self.data.first_chunk()
                {
                    factors.insert(at, i16::from_be_bytes(*word));
                }
            }
            tags.extend(model.tags(&prefix, |at| factors.get(&at).copied()));
        }
        Ok(tags)
    }

    /// How many of several requests that are sent at once are answered.
    async fn at_once(&mut self, unit: u8) -> usize {
        let read = Read { table: Table::Holding, start: 0, count: 1, register_bytes: 2 };
        let mut open = 0;
        for token in 1..=AT_ONCE as u64 {
            self.requests += 1;
            if self.line.send(token, unit, true, Request::Read(read)).await.is_err() {
                break;
            }
            open += 1;
        }
        let mut answered = 0;
        while open > 0 {
            match self.line.next().await {
                Event::Answer { outcome, .. } => {
                    open -= 1;
                    answered += usize::from(!matches!(outcome, Outcome::Trouble(_)));
                }
                Event::Silent => {}
                Event::Lost(_) => break,
            }
        }
        answered.max(1)
    }

    /// Whether registers read together are not what each of them is. Values change; only what differs twice counts.
    async fn is_wrong_over_gaps(&mut self, unit: u8, at: Address) -> Result<bool, Reason> {
        if at.start > u16::MAX - COMPARED {
            return Ok(false);
        }
        for _ in 0..2 {
            if !self.read(unit, at.table, at.start, COMPARED).await? {
                return Ok(false);
            }
            let together = self.data.clone();
            let mut differs = false;
            for (register, word) in (at.start..at.start + COMPARED).zip(together.chunks_exact(2)) {
                differs |= self.read(unit, at.table, register, 1).await? && self.data != word;
            }
            if !differs {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The most values that one request reads from an address on, by halving. The map's end limits it, too.
    async fn largest(&mut self, unit: u8, table: Table, from: u16) -> Result<u16, Reason> {
        let room = 0x1_0000 - u32::from(from);
        let (mut good, mut bad) = (1, u32::from(table.most()).min(room) as u16 + 1);
        if self.read(unit, table, from, bad - 1).await? {
            return Ok(bad - 1);
        }
        while good + 1 < bad {
            let middle = good + (bad - good) / 2;
            if self.read(unit, table, from, middle).await? { good = middle } else { bad = middle }
        }
        Ok(good)
    }

    async fn identity(&mut self, unit: u8) -> Result<Option<String>, Reason> {
        if self.ask(unit, Request::Identify { from: 0 }).await? != Outcome::Data {
            return Ok(None);
        }
        Ok(objects(&self.data))
    }

    /// A 32-bit value in each order, the likeliest first.
    async fn orders(&mut self, unit: u8, at: Address) -> Result<Vec<(Order, f64, i64)>, Reason> {
        if !self.read(unit, at.table, at.start, 2).await? {
            return Ok(Vec::new());
        }
        let mut ranked: Vec<_> = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba]
            .into_iter()
            .map(|order| {
                let number = |word: WordType| word.read(order, Encoding::Utf8, &self.data, &mut Batch::new());
                let single = match number(WordType::F32) {
                    Ok(Value::Double(x)) => x,
                    _ => f64::NAN,
                };
                let whole = match number(WordType::I32) {
                    Ok(Value::Int(n)) => n,
                    _ => 0,
                };
                (order, single, whole)
            })
            .collect();
        ranked.sort_by(|a, b| oddity(a.1, a.2).total_cmp(&oddity(b.1, b.2)));
        Ok(ranked)
    }
}

/// How unlikely a plant has such a value: far from 1 as a float, and large as a number.
fn oddity(single: f64, whole: i64) -> f64 {
    let as_float = if single == 0.0 {
        20.0
    } else if single.is_finite() {
        single.abs().log10().abs()
    } else {
        100.0
    };
    let as_whole = 2.0 + (whole.unsigned_abs() as f64 + 1.0).log10();
    as_float.min(as_whole)
}

/// Vendor, product and version of an identification (section 6.21), behind its function code.
pub(crate) fn objects(data: &[u8]) -> Option<String> {
    let count = *data.get(5)?;
    let mut at = 6;
    let mut texts = Vec::new();
    for _ in 0..count {
        let length = usize::from(*data.get(at + 1)?);
        let text = String::from_utf8_lossy(data.get(at + 2..at + 2 + length)?).replace(char::is_control, " ");
        texts.push(text.trim().to_owned());
        at += 2 + length;
    }
    texts.retain(|text| !text.is_empty());
    (!texts.is_empty()).then(|| texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_stands_behind_the_endpoint() {
        let (url, wanted) = wanted("rtu:///dev/ttyS0?baud=9600&unit=7&at=40101&parity=none").unwrap();
        assert_eq!(url, "rtu:///dev/ttyS0?baud=9600&parity=none");
        assert_eq!((wanted.unit, wanted.at.map(|at| at.to_string())), (Some(7), Some("holding:100".into())));
        assert!(super::wanted("tcp://h?unit=300").is_err() && super::wanted("tcp://h?at=coil:1").is_err());
    }

    #[test]
    fn an_identification_is_read_and_a_broken_one_is_none() {
        let data = [14, 1, 1, 0, 0, 2, 0, 3, b'A', b'c', b'e', 1, 2, b'P', b'1'];
        assert_eq!(objects(&data).as_deref(), Some("Ace P1"));
        for cut in 0..data.len() {
            assert_eq!(objects(&data[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_likelier_order_comes_first() {
        // 230.5 in CDAB.
        let bits = 230.5_f32.to_bits();
        let right = oddity(230.5, i64::from(bits as i32));
        let wrong_bits = bits.rotate_left(16);
        assert!(right < oddity(f32::from_bits(wrong_bits).into(), i64::from(wrong_bits as i32)));
    }
}
