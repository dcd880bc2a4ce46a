//! The simulated plant, and what befalls it: a script, always the same, so that a screen can be understood.

use super::place::Addresses;
use anyhow::{Context, Result};
use millrace_erp_sim::{Erp, Order};
use millrace_modbus_sim::Plant as Meters;
use millrace_mqtt_sim::{Fault, Hall};
use millrace_opcua_sim::Shop;
use millrace_s7_sim::{Kind, Oven};
use std::time::Duration;

/// A device whose readings are numbered, and where its numbers are in Kafka.
pub struct Numbered {
    pub name: String,
    /// Below the site.
    pub tag: String,
    /// The last number given.
    pub made: u64,
    /// Its numbers are those from the first one seen: it worked before anybody watched.
    pub counts_from_first: bool,
    /// Of them, how many the device still stores.
    pub stored: u64,
    pub connected: bool,
}

/// What the ERP knows.
#[derive(Clone, Copy, Default)]
pub struct Office {
    pub orders: u64,
    /// Different parts that are confirmed.
    pub confirmed: u64,
    /// Confirmations of a part that has one.
    pub twice: u64,
    /// Confirmations whose answer never arrived.
    pub answers_lost: u64,
}

pub struct Plant {
    erp: Erp,
    hall: Hall,
    shop: Shop,
    oven: Oven,
    /// Meters and a drive; they live as long as they are held.
    _meters: Meters,
    /// Since the demo began.
    works_since: Option<Duration>,
    calm: bool,
    /// The broker is the demo's own, and may be stopped.
    owns_kafka: bool,
    resting: bool,
    /// Steps of the script that were taken.
    taken: usize,
    /// What ends when, and the most that was stored meanwhile.
    ends: Vec<(Duration, Trouble, usize)>,
}

/// The id of Millrace's own connection, as the file says.
const MILLRACE: &str = "millrace-cells";
/// As many as the file reads.
pub const PRESSES: usize = 3;
const METERS: u8 = 3;
/// From one part of the oven to the next.
const PART_EVERY: Duration = Duration::from_secs(2);
/// From one production order to the next.
const ORDER_EVERY: Duration = Duration::from_secs(2);
/// The ERP loses every so-manieth answer.
const LOSES_EVERY: u64 = 3;
/// After the last step the script begins again.
const ROUND: u64 = 45;

/// What befalls the plant.
#[derive(Clone)]
enum Trouble {
    Hall(Fault),
    /// A press stops with a fault for so long.
    Breakdown {
        press: usize,
        lasts: Duration,
    },
    /// The cable to the oven's CPU is cut.
    OvenCut,
    /// The Kafka broker is stopped for so long.
    KafkaAway {
        lasts: Duration,
    },
}

impl Trouble {
    fn lasts(&self) -> Duration {
        match self {
            Self::Hall(fault) => fault.lasts(),
            Self::Breakdown { lasts, .. } | Self::KafkaAway { lasts } => *lasts,
            Self::OvenCut => Duration::ZERO,
        }
    }
}

/// So many seconds after the beginning of a round.
fn script() -> [(u64, Trouble); 9] {
    let secs = Duration::from_secs;
    [
        (3, Trouble::Hall(Fault::Cut { client_id: "cell-3".into(), lasts: secs(5) })),
        (6, Trouble::Breakdown { press: 2, lasts: secs(8) }),
        (9, Trouble::Hall(Fault::Hostile { client_id: "cell-1".into() })),
        (11, Trouble::Hall(Fault::Cut { client_id: MILLRACE.into(), lasts: secs(3) })),
        (13, Trouble::OvenCut),
        (14, Trouble::KafkaAway { lasts: secs(5) }),
        (18, Trouble::Hall(Fault::Cut { client_id: "edge-line-1".into(), lasts: secs(5) })),
        (27, Trouble::Hall(Fault::Burst { client_id: "cell-2".into(), readings: 500 })),
        (32, Trouble::Hall(Fault::Death { client_id: "cell-4".into(), lasts: secs(5) })),
    ]
}

impl Plant {
    /// Starts the simulators, at rest.
    pub async fn start(addresses: &Addresses, troubled: bool, owns_kafka: bool) -> Result<Self> {
        let options = millrace_mqtt_sim::Options {
            listen: addresses.mqtt,
            primary_host: Some("millrace".to_owned()),
            at_rest: true,
            ..millrace_mqtt_sim::Options::default()
        };
        let hall = Hall::start(options).await.with_context(|| format!("cannot listen on {} for the MQTT simulator", addresses.mqtt))?;
        let shop = millrace_opcua_sim::Options { listen: addresses.opcua, presses: PRESSES, ..millrace_opcua_sim::Options::default() };
        let shop = tokio::task::block_in_place(|| Shop::start(shop)).context("cannot start the OPC UA simulator")?;
        let oven = millrace_s7_sim::Options { part_every: PART_EVERY, ..millrace_s7_sim::Options::at(addresses.s7) };
        let oven = Oven::start(oven).await.with_context(|| format!("cannot listen on {} for the S7 simulator", addresses.s7))?;
        let gateway = millrace_modbus_sim::Options { listen: addresses.modbus, is_rtu: false, is_parallel: false };
        let meters = Meters::start(gateway, METERS).await;
        let meters = meters.with_context(|| format!("cannot listen on {} for the Modbus simulator", addresses.modbus))?;
        let erp = Erp::listen(addresses.erp).await.with_context(|| format!("cannot listen on {} for the simulated ERP", addresses.erp))?;
        let loses_every = if troubled { LOSES_EVERY } else { 0 };
        erp.set_troubles(millrace_erp_sim::Troubles { loses_every, ..millrace_erp_sim::Troubles::default() });
        Ok(Self {
            erp,
            hall,
            shop,
            oven,
            _meters: meters,
            works_since: None,
            calm: !troubled,
            owns_kafka,
            resting: false,
            taken: 0,
            ends: Vec::new(),
        })
    }

    pub fn is_at_rest(&self) -> bool {
        self.works_since.is_none()
    }

    pub fn work(&mut self, now: Duration) {
        self.hall.rest(false);
        self.works_since = Some(now);
    }

    /// Makes nothing new any more; what is stored still comes.
    pub fn rest(&mut self) {
        self.hall.rest(true);
        self.oven.rest(true);
        tokio::task::block_in_place(|| (1..=PRESSES).for_each(|press| drop(self.shop.breakdown(press))));
        // None of them is repaired any more.
        self.ends.retain(|(_, trouble, _)| !matches!(trouble, Trouble::Breakdown { .. }));
        self.resting = true;
    }

    /// Whether the broker should be stopped now.
    pub fn kafka_is_away(&self) -> bool {
        self.ends.iter().any(|(_, trouble, _)| matches!(trouble, Trouble::KafkaAway { .. }))
    }

    /// Takes the steps of the script that are due and says what happened. `left`: nothing begins that would not be over by then. `waiting`: records
    /// in Millrace's log.
    pub fn act(&mut self, now: Duration, left: Option<Duration>, waiting: u64) -> Vec<String> {
        self.release(now);
        for (_, trouble, most) in &mut self.ends {
            let held = match trouble {
                Trouble::KafkaAway { .. } => usize::try_from(waiting).unwrap_or(usize::MAX),
                _ => stored(&self.hall, trouble),
            };
            *most = (*most).max(held);
        }
        let over: Vec<(Duration, Trouble, usize)> = self.ends.extract_if(.., |(end, ..)| *end <= now).collect();
        let mut happened = Vec::new();
        for (_, trouble, most) in over {
            if let Trouble::Breakdown { press, .. } = trouble {
                drop(tokio::task::block_in_place(|| self.shop.repair(press)));
            }
            happened.push(is_over(&trouble, most));
        }
        let Some(works_since) = self.works_since.filter(|_| !self.calm && !self.resting) else { return happened };
        let script = script();
        loop {
            let (round, step) = (self.taken / script.len(), self.taken % script.len());
            let (at, trouble) = &script[step];
            if now < works_since + Duration::from_secs(round as u64 * ROUND + at) {
                return happened;
            }
            self.taken += 1;
            // What a fault held up needs a moment to arrive.
            let needed = trouble.lasts() + Duration::from_secs(2);
            if left.is_some_and(|left| left < needed) || (matches!(trouble, Trouble::KafkaAway { .. }) && !self.owns_kafka) {
                continue;
            }
            happened.push(says(trouble));
            match trouble {
                Trouble::Hall(fault) => self.hall.inflict(fault),
                Trouble::Breakdown { press, .. } => drop(tokio::task::block_in_place(|| self.shop.breakdown(*press))),
                Trouble::OvenCut => self.oven.inflict(Kind::Cut),
                // Whoever runs the broker asks `kafka_is_away`.
                Trouble::KafkaAway { .. } => {}
            }
            if !trouble.lasts().is_zero() {
                self.ends.push((now + trouble.lasts(), trouble.clone(), 0));
            }
        }
    }

    /// Releases the orders that are due.
    fn release(&self, now: Duration) {
        let Some(works_since) = self.works_since.filter(|_| !self.resting) else { return };
        let due = now.saturating_sub(works_since).as_secs() / ORDER_EVERY.as_secs() + 1;
        self.erp.with(|store| {
            for number in store.orders().count() as u64..due {
                store.put(Order::new(format!("{:012}", 1_000_000 + number), millrace_schemas::Micros::now().as_millis()));
            }
        });
    }

    pub fn office(&self) -> Office {
        let loses_every = if self.calm { 0 } else { LOSES_EVERY };
        self.erp.with(|store| {
            let parts: std::collections::HashSet<_> = store.confirmations.iter().map(|one| one.text("serial")).collect();
            let (all, confirmed) = (store.confirmations.len() as u64, parts.len() as u64);
            let answers_lost = store.posts.checked_div(loses_every).unwrap_or(0);
            Office { orders: store.orders().count() as u64, confirmed, twice: all - confirmed, answers_lost }
        })
    }

    pub fn numbered(&self) -> Vec<Numbered> {
        let of_hall = self.hall.devices().into_iter().map(|device| {
            let tag = match device.name.starts_with("packer") {
                true => format!("packaging/{}/Count", device.name),
                false => format!("assembly/{}/seq", device.name),
            };
            let stored = device.stored as u64;
            Numbered { tag, made: device.made, counts_from_first: false, stored, connected: device.connected, name: device.name }
        });
        let of_shop = self.shop.strokes().into_iter().enumerate().map(|(index, strokes)| {
            let name = format!("press-{}", index + 1);
            let tag = format!("body/{name}/strokes");
            Numbered { tag, made: strokes.into(), counts_from_first: true, stored: 0, connected: true, name }
        });
        let parts = u64::try_from(self.oven.parts()).unwrap_or_default();
        let of_oven = Numbered {
            name: "oven".into(),
            tag: "paint/oven/parts".into(),
            made: parts,
            counts_from_first: true,
            stored: 0,
            connected: true,
        };
        of_hall.chain(of_shop).chain([of_oven]).collect()
    }

    /// Payloads sent that break their contract.
    pub fn hostile(&self) -> u64 {
        self.hall.devices().iter().map(|device| device.hostile).sum()
    }
}

/// What waits on the device's side of a broken cable: in its store, or at the MQTT broker.
fn stored(hall: &Hall, trouble: &Trouble) -> usize {
    let Trouble::Hall(fault) = trouble else { return 0 };
    match fault.client_id() {
        MILLRACE => hall.broker().client(MILLRACE).map_or(0, |(_, held)| held),
        client_id => hall.devices().iter().filter(|device| device.client_id == client_id).map(|device| device.stored).sum(),
    }
}

/// A trouble ends: what waited now follows.
fn is_over(trouble: &Trouble, stored: usize) -> String {
    match trouble {
        Trouble::Breakdown { press, .. } => format!("press-{press} runs again"),
        Trouble::OvenCut => "the oven is read again".into(),
        Trouble::KafkaAway { .. } => format!("Kafka is back: {stored} records waited in the log and follow"),
        Trouble::Hall(fault @ Fault::Death { .. }) => format!("{} has power again", named(fault.client_id())),
        Trouble::Hall(fault) if fault.client_id() == MILLRACE => {
            format!("Millrace's cable is back: {stored} messages waited at the MQTT broker")
        }
        Trouble::Hall(fault) => format!("the cable to {} is back: {stored} stored readings follow", named(fault.client_id())),
    }
}

/// A client as people call it.
fn named(client_id: &str) -> &str {
    if client_id == "edge-line-1" { "the packaging line" } else { client_id }
}

/// What happens, and why it loses nothing.
fn says(trouble: &Trouble) -> String {
    let fault = match trouble {
        Trouble::Breakdown { press, .. } => return format!("press-{press} breaks down: its force turns bad, its alarm goes first"),
        Trouble::OvenCut => return "the connection to the oven is cut: a part waits for its acknowledgement until it is recorded".into(),
        Trouble::KafkaAway { lasts } => return format!("Kafka stops for {} s: the log keeps what comes in", lasts.as_secs()),
        Trouble::Hall(fault) => fault,
    };
    let name = named(fault.client_id());
    match fault {
        Fault::Cut { client_id, lasts } if client_id == MILLRACE => {
            format!("Millrace's cable to the MQTT broker is cut for {} s: the broker stores", lasts.as_secs())
        }
        Fault::Cut { lasts, .. } => format!("the cable to {name} is cut for {} s: it stores its readings", lasts.as_secs()),
        Fault::Death { lasts, .. } => format!("{name} has no power for {} s", lasts.as_secs()),
        Fault::Hostile { .. } => format!("{name} sends what is no JSON: it becomes a dead letter"),
        other => other.to_string(),
    }
}
