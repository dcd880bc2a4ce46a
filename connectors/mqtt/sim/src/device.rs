//! What all simulated devices have in common: a name, counts anyone may read, orders from outside.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Interval;

/// What a device is told to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// So many readings at once, besides the rate.
    Burst(usize),
    /// A payload that breaks its contract.
    Hostile,
    /// No power for so long: no readings, no connection.
    Die(Duration),
}

/// What a device does next.
pub enum Work {
    Tick,
    Order(Order),
    /// Nobody gives orders any more.
    End,
}

/// Waits for the next reading's turn or for an order.
pub async fn work(every: &mut Interval, orders: &mut mpsc::Receiver<Order>) -> Work {
    tokio::select! {
        _ = every.tick() => Work::Tick,
        order = orders.recv() => order.map_or(Work::End, Work::Order),
    }
}

/// A device's counts.
#[derive(Debug, Default)]
pub struct Gauges {
    /// The last sequence number given to a reading; the first is 1.
    pub made: AtomicU64,
    /// Readings that are not with the broker yet.
    pub stored: AtomicUsize,
    /// Readings that fell out of a full store: gone for good.
    pub overwritten: AtomicU64,
    /// Payloads sent that break their contract.
    pub hostile: AtomicU64,
    pub connected: AtomicBool,
    /// The store still sends, but nothing new is made.
    pub resting: AtomicBool,
}

/// A device at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    pub name: String,
    /// Under which id the broker knows it, or its edge node.
    pub client_id: String,
    pub made: u64,
    pub stored: usize,
    pub overwritten: u64,
    pub hostile: u64,
    pub connected: bool,
}

impl Gauges {
    pub fn read(&self, name: &str, client_id: &str) -> Device {
        Device {
            name: name.to_owned(),
            client_id: client_id.to_owned(),
            made: self.made.load(Relaxed),
            stored: self.stored.load(Relaxed),
            overwritten: self.overwritten.load(Relaxed),
            hostile: self.hostile.load(Relaxed),
            connected: self.connected.load(Relaxed),
        }
    }
}

/// Readings a device keeps at most while nobody takes them.
pub const STORE: usize = 50_000;

/// Milliseconds since 1970, as the device's clock says.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A value that wanders like a sensor's: around `middle`, by `swing`, with some noise; `n` is the reading's number.
pub fn wander(n: u64, middle: f64, swing: f64, period: f64) -> f64 {
    let noise = fastrand::f64() - 0.5;
    middle + swing * ((n as f64 / period).sin() + 0.2 * noise)
}
