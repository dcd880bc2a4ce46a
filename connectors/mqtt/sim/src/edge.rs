//! A Sparkplug B edge node with packaging machines: births, data by alias, deaths, and a store for what nobody heard.
//!
//! ```text
//! spBv1.0/GROUP/NBIRTH/NODE          bdSeq, Node Control/Rebirth
//! spBv1.0/GROUP/DBIRTH/NODE/DEVICE   Count, Speed, Temperature, Jammed, Recipe with names, types and aliases
//! spBv1.0/GROUP/DDATA/NODE/DEVICE    Count, Speed, Temperature, Jammed by alias
//! spBv1.0/GROUP/NDEATH/NODE          its will
//! ```
//!
//! Count is the number of the reading. Sparkplug's data is QoS 0: nobody says what arrived. So the node keeps its readings a while after it
//! sent them, and after a lost connection sends them again, marked as historical: rather twice than never. With a primary host it is silent
//! while that host is offline, and stores.
//!
//! Source: Sparkplug 3.0.0, chapters 4 to 6.

use crate::device::{Gauges, Order, STORE, Work, now_ms, wander, work};
use crate::link::{KEEP_ALIVE, Link, News};
use crate::sparkplug::{Metric, Value, payload};
use millrace_mqtt::packet::{Qos, Will};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How long a reading that was sent is kept: longer than it takes to notice that nobody was there.
const KEPT_MS: u64 = 2 * KEEP_ALIVE.as_millis() as u64;
/// Readings in one historical message.
const AT_ONCE: usize = 100;

pub struct Edge {
    pub group: String,
    pub node: String,
    /// The machines, each with its counts.
    pub devices: Vec<(String, Arc<Gauges>)>,
    pub endpoint: String,
    pub every: Duration,
    /// The id of the host without which nothing is sent.
    pub primary_host: Option<String>,
    pub orders: mpsc::Receiver<Order>,
}

#[derive(Clone, Copy)]
struct Reading {
    device: usize,
    time_ms: u64,
    count: u64,
    speed: f64,
    temperature: f32,
    jammed: bool,
    sent: bool,
}

struct Running {
    group: String,
    node: String,
    devices: Vec<(String, Arc<Gauges>)>,
    /// In order; those that were sent are in front.
    readings: VecDeque<Reading>,
    seq: u8,
    bd_seq: u64,
}

impl Edge {
    /// The id under which the broker knows the node.
    pub fn client_id(&self) -> String {
        format!("edge-{}", self.node)
    }

    /// Runs until the orders end.
    pub async fn run(self) {
        let client_id = self.client_id();
        let Self { group, node, devices, endpoint, every, primary_host, mut orders } = self;
        let state = primary_host.map(|id| format!("spBv1.0/STATE/{id}"));
        let command = format!("spBv1.0/{group}/NCMD/{node}");
        let mut every = tokio::time::interval(every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut edge = Running { group, node, devices, readings: VecDeque::new(), seq: 0, bd_seq: 0 };
        'connections: loop {
            let will = Will { topic: edge.topic("NDEATH", None), payload: edge.death(), qos: Qos::AtLeastOnce, retain: false };
            let mut link = {
                let mut opening = std::pin::pin!(Link::open(&endpoint, &client_id, will));
                loop {
                    tokio::select! {
                        link = &mut opening => break link,
                        work = work(&mut every, &mut orders) => if edge.works(work, &mut orders).await.is_break() { return },
                    }
                }
            };
            link.subscribe(&command);
            if let Some(state) = &state {
                link.subscribe(state);
            }
            let mut born = false;
            if state.is_none() {
                edge.born(&mut link);
                born = true;
            }
            edge.connected(born);
            loop {
                if born {
                    edge.send(&mut link);
                }
                match link.alongside(work(&mut every, &mut orders)).await {
                    Ok(News::Message { topic, payload }) if Some(&topic) == state.as_ref() => match (is_online(&payload), born) {
                        (true, false) => {
                            edge.born(&mut link);
                            edge.connected(true);
                            born = true;
                        }
                        (false, true) => {
                            // Section 5.4: says that it is dead, and waits for its host on a new connection.
                            link.publish(&edge.topic("NDEATH", None), &edge.death(), Qos::AtMostOnce, false, false);
                            edge.lost();
                            link.close().await;
                            continue 'connections;
                        }
                        _ => {}
                    },
                    // The only command it knows: Node Control/Rebirth.
                    Ok(News::Message { topic, .. }) if topic == command && born => edge.births(&mut link),
                    Ok(News::Message { .. } | News::Acknowledged(_)) => {}
                    Ok(News::Done(Work::End)) => {
                        link.publish(&edge.topic("NDEATH", None), &edge.death(), Qos::AtMostOnce, false, false);
                        return link.close().await;
                    }
                    Ok(News::Done(Work::Order(Order::Die(lasts)))) => {
                        drop(link);
                        edge.lost();
                        edge.dead(lasts, &mut orders).await;
                        continue 'connections;
                    }
                    Ok(News::Done(Work::Order(Order::Hostile))) => {
                        // A metric whose length claims more than there is.
                        edge.devices[0].1.hostile.fetch_add(1, Relaxed);
                        let topic = edge.topic("DDATA", Some(0));
                        link.publish(&topic, &[0x08, 1, 0x12, 0x7F, 0x0A], Qos::AtMostOnce, false, false);
                    }
                    Ok(News::Done(done)) => _ = edge.works(done, &mut orders).await,
                    Err(_) => {
                        edge.lost();
                        continue 'connections;
                    }
                }
            }
        }
    }
}

/// Whether a host's STATE says that it is there. Section 6.4.27; older hosts say `ONLINE`.
fn is_online(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(payload).map_or(payload == b"ONLINE", |state| state["online"] == true)
}

const MACHINE: [&str; 4] = ["Count", "Speed", "Temperature", "Jammed"];

impl Running {
    fn topic(&self, verb: &str, device: Option<usize>) -> String {
        let Self { group, node, devices, .. } = self;
        match device {
            None => format!("spBv1.0/{group}/{verb}/{node}"),
            Some(device) => format!("spBv1.0/{group}/{verb}/{node}/{}", devices[device].0),
        }
    }

    /// NDEATH of the connection that is opened with it.
    fn death(&self) -> Vec<u8> {
        let bd_seq = Metric { name: Some("bdSeq"), alias: None, time_ms: now_ms(), historical: false, value: Value::UInt64(self.bd_seq) };
        payload(now_ms(), None, &[bd_seq])
    }

    fn next_seq(&mut self) -> Option<u8> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        Some(seq)
    }

    /// A new connection: births, and what an earlier one may not have brought is to be sent again.
    fn born(&mut self, link: &mut Link) {
        self.births(link);
        self.readings.iter_mut().for_each(|reading| reading.sent = false);
        while self.readings.iter().any(|reading| !reading.sent) {
            for device in 0..self.devices.len() {
                let of_device = self.readings.iter_mut().filter(|reading| !reading.sent && reading.device == device).take(AT_ONCE);
                let mut metrics = Vec::new();
                for reading in of_device {
                    reading.sent = true;
                    metrics.extend(reading.metrics(true));
                }
                if !metrics.is_empty() {
                    let message = payload(now_ms(), self.next_seq(), &metrics);
                    link.publish(&self.topic("DDATA", Some(device)), &message, Qos::AtMostOnce, false, false);
                }
            }
        }
    }

    fn births(&mut self, link: &mut Link) {
        let now = now_ms();
        self.seq = 0;
        let own = |name, value| Metric { name: Some(name), alias: None, time_ms: now, historical: false, value };
        let node = [own("bdSeq", Value::UInt64(self.bd_seq)), own("Node Control/Rebirth", Value::Boolean(false))];
        let message = payload(now, self.next_seq(), &node);
        link.publish(&self.topic("NBIRTH", None), &message, Qos::AtMostOnce, false, false);
        for device in 0..self.devices.len() {
            let count = self.devices[device].1.made.load(Relaxed);
            let mut metrics: Vec<Metric<'_>> = Reading::new(device, count).metrics(false).to_vec();
            for (metric, name) in metrics.iter_mut().zip(MACHINE) {
                metric.name = Some(name);
            }
            let alias = Some(alias(device, MACHINE.len()));
            metrics.push(Metric { name: Some("Recipe"), alias, time_ms: now, historical: false, value: Value::Text("carton-12") });
            let message = payload(now, self.next_seq(), &metrics);
            link.publish(&self.topic("DBIRTH", Some(device)), &message, Qos::AtMostOnce, false, false);
        }
    }

    /// Sends what is new, and forgets what was sent long ago.
    fn send(&mut self, link: &mut Link) {
        for at in 0..self.readings.len() {
            if self.readings[at].sent || !link.has_room() {
                continue;
            }
            self.readings[at].sent = true;
            let reading = self.readings[at];
            let message = payload(reading.time_ms, self.next_seq(), &reading.metrics(false));
            link.publish(&self.topic("DDATA", Some(reading.device)), &message, Qos::AtMostOnce, false, false);
        }
        let now = now_ms();
        while self.readings.front().is_some_and(|oldest| oldest.sent && now.saturating_sub(oldest.time_ms) > KEPT_MS) {
            self.readings.pop_front();
        }
        self.tell_stored();
    }

    async fn works(&mut self, work: Work, orders: &mut mpsc::Receiver<Order>) -> std::ops::ControlFlow<()> {
        match work {
            Work::Tick => self.reads(),
            Work::Order(Order::Burst(count)) => (0..count).for_each(|_| self.reads()),
            // Without a connection there is nobody to send it to.
            Work::Order(Order::Hostile) => {}
            Work::Order(Order::Die(lasts)) => self.dead(lasts, orders).await,
            Work::End => return std::ops::ControlFlow::Break(()),
        }
        self.tell_stored();
        std::ops::ControlFlow::Continue(())
    }

    /// No power: nothing is read. Orders that come meanwhile go unheard.
    async fn dead(&mut self, lasts: Duration, orders: &mut mpsc::Receiver<Order>) {
        tokio::time::sleep(lasts).await;
        while orders.try_recv().is_ok() {}
    }

    fn reads(&mut self) {
        for device in 0..self.devices.len() {
            let gauges = &self.devices[device].1;
            if gauges.resting.load(Relaxed) {
                continue;
            }
            let count = gauges.made.fetch_add(1, Relaxed) + 1;
            if self.readings.len() >= STORE {
                gauges.overwritten.fetch_add(1, Relaxed);
            } else {
                self.readings.push_back(Reading::new(device, count));
            }
        }
    }

    fn tell_stored(&self) {
        for (device, (_, gauges)) in self.devices.iter().enumerate() {
            let stored = self.readings.iter().rev().take_while(|reading| !reading.sent).filter(|reading| reading.device == device).count();
            gauges.stored.store(stored, Relaxed);
        }
    }

    fn connected(&self, connected: bool) {
        for (_, gauges) in &self.devices {
            gauges.connected.store(connected, Relaxed);
        }
    }

    fn lost(&mut self) {
        self.connected(false);
        self.bd_seq = (self.bd_seq + 1) % 256;
    }
}

/// Of the metric with this index; unique within the node.
const fn alias(device: usize, metric: usize) -> u64 {
    (device * 16 + metric + 1) as u64
}

impl Reading {
    fn new(device: usize, count: u64) -> Self {
        Self {
            device,
            time_ms: now_ms(),
            count,
            speed: wander(count, 120.0, 15.0, 60.0),
            temperature: wander(count, 48.0, 6.0, 300.0) as f32,
            jammed: count % 500 > 495,
            sent: false,
        }
    }

    fn metrics(&self, historical: bool) -> [Metric<'static>; 4] {
        let metric = |index, value| Metric { name: None, alias: Some(alias(self.device, index)), time_ms: self.time_ms, historical, value };
        [
            metric(0, Value::Int64(self.count as i64)),
            metric(1, Value::Double(self.speed)),
            metric(2, Value::Float(self.temperature)),
            metric(3, Value::Boolean(self.jammed)),
        ]
    }
}
