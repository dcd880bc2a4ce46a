//! The simulated plant, and what befalls it: a script, always the same, so that a screen can be understood.

use super::place::Addresses;
use anyhow::{Context, Result};
use millrace_mqtt_sim::{Fault, Hall};
use std::time::Duration;

/// A device whose readings are numbered, and where its numbers are in Kafka.
pub struct Numbered {
    pub name: String,
    /// Below the site.
    pub tag: String,
    /// Readings made; the last one's number.
    pub made: u64,
    /// Of them, how many the device still stores.
    pub stored: u64,
    pub connected: bool,
}

pub struct Plant {
    hall: Hall,
    /// Since the demo began.
    works_since: Option<Duration>,
    calm: bool,
    /// Steps of the script that were taken.
    taken: usize,
    /// What ends when, and the most that was stored meanwhile.
    ends: Vec<(Duration, Fault, usize)>,
}

/// The id of Millrace's own connection, as the file says.
const MILLRACE: &str = "millrace-cells";
/// After the last step the script begins again.
const ROUND: u64 = 45;

/// So many seconds after the beginning of a round.
fn script() -> [(u64, Fault); 6] {
    let secs = Duration::from_secs;
    [
        (3, Fault::Cut { client_id: "cell-3".into(), lasts: secs(5) }),
        (9, Fault::Hostile { client_id: "cell-1".into() }),
        (11, Fault::Cut { client_id: MILLRACE.into(), lasts: secs(3) }),
        (18, Fault::Cut { client_id: "edge-line-1".into(), lasts: secs(5) }),
        (27, Fault::Burst { client_id: "cell-2".into(), readings: 500 }),
        (32, Fault::Death { client_id: "cell-4".into(), lasts: secs(5) }),
    ]
}

impl Plant {
    /// Starts the simulators, at rest.
    pub async fn start(addresses: &Addresses, troubled: bool) -> Result<Self> {
        let options = millrace_mqtt_sim::Options {
            listen: addresses.mqtt,
            primary_host: Some("millrace".to_owned()),
            at_rest: true,
            ..millrace_mqtt_sim::Options::default()
        };
        let hall = Hall::start(options).await.with_context(|| format!("cannot listen on {} for the MQTT simulator", addresses.mqtt))?;
        Ok(Self { hall, works_since: None, calm: !troubled, taken: 0, ends: Vec::new() })
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
    }

    /// Takes the steps of the script that are due and says what happened. `left`: nothing begins that would not be over by then.
    pub fn act(&mut self, now: Duration, left: Option<Duration>) -> Vec<String> {
        for (_, fault, most) in &mut self.ends {
            *most = (*most).max(stored(&self.hall, fault));
        }
        let mut happened: Vec<String> =
            self.ends.extract_if(.., |(end, ..)| *end <= now).map(|(_, fault, most)| is_over(&fault, most)).collect();
        let Some(works_since) = self.works_since.filter(|_| !self.calm) else { return happened };
        let script = script();
        loop {
            let (round, step) = (self.taken / script.len(), self.taken % script.len());
            let (at, fault) = &script[step];
            if now < works_since + Duration::from_secs(round as u64 * ROUND + at) {
                return happened;
            }
            self.taken += 1;
            // What a fault held up needs a moment to arrive.
            let needed = fault.lasts() + Duration::from_secs(2);
            if left.is_some_and(|left| left < needed) {
                continue;
            }
            happened.push(says(fault));
            self.hall.inflict(fault);
            if !fault.lasts().is_zero() {
                self.ends.push((now + fault.lasts(), fault.clone(), 0));
            }
        }
    }

    pub fn numbered(&self) -> Vec<Numbered> {
        let of_hall = self.hall.devices().into_iter().map(|device| {
            let tag = match device.name.starts_with("packer") {
                true => format!("packaging/{}/Count", device.name),
                false => format!("assembly/{}/seq", device.name),
            };
            let stored = device.stored as u64;
            Numbered { tag, made: device.made, stored, connected: device.connected, name: device.name }
        });
        of_hall.collect()
    }

    /// Payloads sent that break their contract.
    pub fn hostile(&self) -> u64 {
        self.hall.devices().iter().map(|device| device.hostile).sum()
    }
}

/// What waits on the device's side of a broken cable: in its store, or at the MQTT broker.
fn stored(hall: &Hall, fault: &Fault) -> usize {
    match fault.client_id() {
        MILLRACE => hall.broker().client(MILLRACE).map_or(0, |(_, held)| held),
        client_id => hall.devices().iter().filter(|device| device.client_id == client_id).map(|device| device.stored).sum(),
    }
}

/// A fault ends: what waited now follows.
fn is_over(fault: &Fault, stored: usize) -> String {
    let name = named(fault.client_id());
    match fault {
        Fault::Death { .. } => format!("{name} has power again"),
        _ if fault.client_id() == MILLRACE => format!("Millrace's cable is back: {stored} messages waited at the MQTT broker"),
        _ => format!("the cable to {name} is back: {stored} stored readings follow"),
    }
}

/// A client as people call it.
fn named(client_id: &str) -> &str {
    if client_id == "edge-line-1" { "the packaging line" } else { client_id }
}

/// What happens, and why it loses nothing.
fn says(fault: &Fault) -> String {
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
