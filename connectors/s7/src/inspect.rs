//! `millrace probe s7` and `millrace browse s7`: what a CPU says of itself, and its data blocks with their lengths. Reads only, one connection.

use crate::address::Area;
use crate::connection::{ConnectionError, Dial, Wire};
use crate::cpu;
use crate::frame::{self, Answer, ITEMS_MAX, Item};
use crate::reading::put_get;
use millrace_config::Reason;
use millrace_contract::found::{Entry, Facts};
use millrace_contract::{Browse, Findings, FoundTag};
use serde_json::Value as Json;
use std::time::Duration;

/// Slots that CPUs are in, with their families.
const SLOTS: [(u8, &str); 4] = [(1, "S7-1200, S7-1500"), (2, "S7-300, S7-400"), (0, "S7-1200, S7-1500"), (3, "S7-400")];
const TIMEOUT: Duration = Duration::from_secs(3);
/// Blocks looked for where the CPU does not list them.
const LOOKED_AT: u16 = 512;

fn dial(url: &str, tsap: u16, named: String) -> Dial {
    let host = url.strip_prefix("s7://").unwrap_or(url);
    let endpoint =
        if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.into() } else { format!("{host}:102") };
    Dial { endpoint, own_tsap: 0x0100, remote_tsap: tsap, named, pdu: 960, jobs: 8, timeout: TIMEOUT }
}

/// Connects to the first slot that answers; one connection at a time.
async fn connect(url: &str) -> Result<(u8, Wire, crate::connection::Driver), ConnectionError> {
    let mut refused = None;
    for (slot, _) in SLOTS {
        match dial(url, 0x0200 | u16::from(slot), format!("rack 0, slots 0 to 3 (tried in turn), slot {slot}")).connect().await {
            Ok((wire, driver)) => return Ok((slot, wire, driver)),
            Err(error @ ConnectionError::Refused { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or(ConnectionError::Closed { endpoint: url.into() }))
}

/// Looks with `look`, beside the driver of the connection.
async fn with<T>(url: &str, look: impl AsyncFnOnce(u8, &Wire) -> Result<T, ConnectionError>) -> Result<T, Reason> {
    let (slot, wire, mut driver) = connect(url).await.map_err(|error| error.to_string())?;
    tokio::select! {
        looked = look(slot, &wire) => looked.map_err(|error| error.to_string().into()),
        error = driver.run() => Err(error.to_string().into()),
    }
}

/// Who a CPU is, its limits, and whether it lets itself be read.
pub async fn probe(browse: Browse) -> Result<Findings, Reason> {
    with(&browse.url, async |slot, wire| {
        let identity = cpu::identity(wire).await?;
        let named = [
            ("order number", identity.order_number),
            ("firmware", identity.firmware),
            ("type", identity.cpu_type),
            ("module", identity.module),
            ("station", identity.station),
            ("serial number", identity.serial_number),
            ("state", cpu::state(wire).await?.map_or_else(String::new, |state| state.to_string())),
            ("protection level", cpu::protection(wire).await?.map_or_else(String::new, |level| level.to_string())),
        ];
        let named = named.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value.into())).collect();
        let mut limits: Vec<(String, Json)> = vec![("pdu_bytes".into(), wire.pdu.into()), ("jobs_in_flight".into(), wire.jobs.into())];
        if let Some((pdu, connections)) = cpu::limits(wire).await? {
            limits.extend([("pdu_bytes_most".into(), pdu.into()), ("connections".into(), connections.into())]);
        }
        let flag = Item { area: Area::Flags, db: 0, byte: 0, len: 1, bit: None };
        let pdu = wire.ask(frame::read(&[flag])).await.answer().await;
        let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
        let reading = match answer.error {
            0 => "allowed".to_owned(),
            0x8104 => put_get(),
            error => format!("refused with error {error:#06x}"),
        };
        let facts = vec![
            ("cpu".to_owned(), Facts::Named(named)),
            ("limits".to_owned(), Facts::Named(limits)),
            ("reading".to_owned(), Facts::One(reading.into())),
        ];
        let profile =
            format!("# What `millrace probe s7 {}` found. A source names it: `profile: FILE`.\nrack: 0\nslot: {slot}\n", browse.url);
        let profiles = vec![("cpu".to_owned(), profile)];
        Ok(Findings { name: "plc", source: source(wire.endpoint(), slot), facts, profiles, ..Findings::default() })
    })
    .await
}

/// The keys of a source that reads this CPU.
fn source(endpoint: &str, slot: u8) -> Vec<Entry> {
    vec![Entry::value("endpoint", endpoint), Entry::value("rack", 0), Entry::value("slot", slot), Entry::value("topic", "telemetry")]
}

/// A data block and its length in bytes.
type Block = (u16, u32);

/// The data blocks that can be read, each as the bytes it has.
pub async fn browse(browse: Browse) -> Result<Findings, Reason> {
    let limit = browse.limit;
    let (source, listed, blocks) = with(&browse.url, async |slot, wire| {
        let (listed, blocks) = blocks(wire, limit).await?;
        Ok((source(wire.endpoint(), slot), listed, blocks))
    })
    .await?;
    let how = if listed {
        "data blocks, as the CPU lists them".to_owned()
    } else {
        format!("data blocks up to DB{LOOKED_AT}, found by reading: the CPU lists none, and optimised ones can't be seen")
    };
    let tag = |(db, bytes): &Block| FoundTag {
        name: format!("db{db}"),
        address: format!("DB{db}.DBB0:BYTE[{}]", bytes.min(&0xFFFF)),
        kind: format!("{bytes} bytes"),
        ..FoundTag::default()
    };
    Ok(Findings {
        name: "plc",
        notes: vec![how, "for the tags in a block: millrace import tia|step7|db".into()],
        source,
        tags: Some(blocks.iter().map(tag).collect()),
        address: "address",
        more: (blocks.len() >= limit).then(|| format!("there may be more than {limit} blocks")),
        ..Findings::default()
    })
}

/// The CPU's data blocks; whether it listed them itself.
async fn blocks(wire: &Wire, limit: usize) -> Result<(bool, Vec<Block>), ConnectionError> {
    let numbers = cpu::data_blocks(wire).await?;
    let listed = numbers.is_some();
    let numbers = match numbers {
        Some(numbers) => numbers,
        None => readable(wire, &(1..=LOOKED_AT).map(|db| (db, 0)).collect::<Vec<_>>()).await?.into_iter().map(|(db, _)| db).collect(),
    };
    let mut found = Vec::new();
    for db in numbers.into_iter().take(limit) {
        let length = match cpu::block_length(wire, db).await? {
            Some(length) => length.into(),
            None => length_by_reading(wire, db).await?,
        };
        if length > 0 {
            found.push((db, length));
        }
    }
    Ok((listed, found))
}

/// The length by halving: one byte at a time is read.
async fn length_by_reading(wire: &Wire, db: u16) -> Result<u32, ConnectionError> {
    let (mut least, mut most) = (0, 0x1_0000_u32);
    while least < most {
        let middle = (least + most) / 2;
        if readable(wire, &[(db, middle)]).await?.is_empty() {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    Ok(least)
}

/// Those of the bytes (block, byte) that can be read.
async fn readable(wire: &Wire, bytes: &[(u16, u32)]) -> Result<Vec<(u16, u32)>, ConnectionError> {
    let most = ((usize::from(wire.pdu) - 12) / 12).min(ITEMS_MAX);
    let mut found = Vec::new();
    for chunk in bytes.chunks(most) {
        let items: Vec<Item> =
            chunk.iter().map(|(db, byte)| Item { area: Area::DataBlock, db: *db, byte: *byte, len: 1, bit: None }).collect();
        let pdu = wire.ask(frame::read(&items)).await.answer().await;
        let answer = Answer::parse(&pdu).map_err(|error| wire.foreign(error))?;
        if answer.error != 0 {
            continue;
        }
        for (at, item) in chunk.iter().zip(answer.items(items.len()).map_err(|error| wire.foreign(error))?) {
            if item.map_err(|error| wire.foreign(error))?.is_ok() {
                found.push(*at);
            }
        }
    }
    Ok(found)
}
