//! An assembly cell: JSON over QoS 1, with a store for what it can't send.
//!
//! ```text
//! cells/NAME/telemetry   {"seq": 17, "ts": 1763740000123, "torque": {"nm": 42.1}, "angle": {"deg": 88.2}, "temperature": 31.4}
//! cells/NAME/state       {"cell": "NAME", "state": "running", "since": 1763740000123, "order": "4711-3"}, retained; "offline" is its will
//! ```
//!
//! Every reading has the next sequence number. It leaves the store when the broker has acknowledged it; after a lost connection whatever is
//! left is sent again: at least once, in order.

use crate::device::{Gauges, Order, STORE, Work, now_ms, wander, work};
use crate::link::{Link, News};
use millrace_mqtt::packet::{Qos, Will};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

pub struct Cell {
    pub name: String,
    pub endpoint: String,
    pub every: Duration,
    pub gauges: Arc<Gauges>,
    pub orders: mpsc::Receiver<Order>,
}

/// A message in the store.
struct Post {
    of_state: bool,
    /// Was sent on a connection that ended before the acknowledgement.
    again: bool,
    payload: Vec<u8>,
}

struct Running {
    name: String,
    gauges: Arc<Gauges>,
    store: VecDeque<Post>,
    order: u32,
}

impl Cell {
    /// Runs until the orders end.
    pub async fn run(self) {
        let Self { name, endpoint, every, gauges, mut orders } = self;
        let client_id = name.clone();
        let (telemetry, state) = (format!("cells/{name}/telemetry"), format!("cells/{name}/state"));
        let offline = format!(r#"{{"cell":"{name}","state":"offline"}}"#).into_bytes();
        let will = Will { topic: state.clone(), payload: offline, qos: Qos::AtLeastOnce, retain: true };
        let mut every = tokio::time::interval(every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cell = Running { name, gauges, store: VecDeque::new(), order: 1 };
        'connections: loop {
            cell.says("running");
            let mut link = {
                let mut opening = std::pin::pin!(Link::open(&endpoint, &client_id, will.clone()));
                loop {
                    tokio::select! {
                        link = &mut opening => break link,
                        work = work(&mut every, &mut orders) => if cell.works(work, &mut orders).await.is_break() { return },
                    }
                }
            };
            cell.gauges.connected.store(true, Relaxed);
            loop {
                while link.has_room()
                    && let Some(post) = cell.store.get(link.in_flight())
                {
                    let topic = if post.of_state { &state } else { &telemetry };
                    link.publish(topic, &post.payload, Qos::AtLeastOnce, post.of_state, post.again);
                }
                match link.alongside(work(&mut every, &mut orders)).await {
                    Ok(News::Acknowledged(count)) => cell.sent(count),
                    Ok(News::Message { .. }) => {}
                    Ok(News::Done(Work::End)) => return link.close().await,
                    Ok(News::Done(Work::Order(Order::Die(lasts)))) => {
                        cell.lost(link);
                        cell.dead(lasts, &mut orders).await;
                        continue 'connections;
                    }
                    Ok(News::Done(done)) => _ = cell.works(done, &mut orders).await,
                    Err(_) => {
                        cell.lost(link);
                        continue 'connections;
                    }
                }
            }
        }
    }
}

impl Running {
    async fn works(&mut self, work: Work, orders: &mut mpsc::Receiver<Order>) -> std::ops::ControlFlow<()> {
        match work {
            Work::Tick if self.gauges.resting.load(Relaxed) => {}
            Work::Tick => self.reads(),
            Work::Order(Order::Burst(count)) => (0..count).for_each(|_| self.reads()),
            Work::Order(Order::Hostile) => self.breaks_the_contract(),
            Work::Order(Order::Die(lasts)) => self.dead(lasts, orders).await,
            Work::End => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    /// No power: nothing is read. Orders that come meanwhile go unheard.
    async fn dead(&mut self, lasts: Duration, orders: &mut mpsc::Receiver<Order>) {
        tokio::time::sleep(lasts).await;
        while orders.try_recv().is_ok() {}
    }

    fn reads(&mut self) {
        let seq = self.gauges.made.fetch_add(1, Relaxed) + 1;
        let (torque, angle) = (wander(seq, 42.0, 6.0, 40.0), wander(seq, 88.0, 9.0, 23.0));
        let temperature = wander(seq, 31.0, 4.0, 600.0);
        let payload = format!(
            r#"{{"seq":{seq},"ts":{},"torque":{{"nm":{torque:.3}}},"angle":{{"deg":{angle:.2}}},"temperature":{temperature:.2}}}"#,
            now_ms(),
        );
        self.keeps(false, payload.into_bytes());
        if seq.is_multiple_of(300) {
            self.order += 1;
            self.says("running");
        }
    }

    fn says(&mut self, state: &str) {
        let Self { name, order, .. } = self;
        let payload = format!(r#"{{"cell":"{name}","state":"{state}","since":{},"order":"4711-{order}"}}"#, now_ms());
        self.keeps(true, payload.into_bytes());
    }

    /// In turn: JSON that was cut off, bytes that are no text, JSON far too deep.
    fn breaks_the_contract(&mut self) {
        let payload = match self.gauges.hostile.fetch_add(1, Relaxed) % 3 {
            0 => br#"{"seq":17,"ts":17637400"#.to_vec(),
            1 => vec![0xFF, 0xFE, 0x00, 0x80, 0x7B],
            _ => [b"[".repeat(100_000), b"]".repeat(100_000)].concat(),
        };
        self.keeps(false, payload);
    }

    fn keeps(&mut self, of_state: bool, payload: Vec<u8>) {
        if self.store.len() >= STORE {
            // The newest give way: the oldest may be in flight.
            self.gauges.overwritten.fetch_add(1, Relaxed);
            return;
        }
        self.store.push_back(Post { of_state, again: false, payload });
        self.gauges.stored.store(self.store.len(), Relaxed);
    }

    fn sent(&mut self, count: usize) {
        self.store.drain(..count.min(self.store.len()));
        self.gauges.stored.store(self.store.len(), Relaxed);
    }

    fn lost(&mut self, link: Link) {
        self.gauges.connected.store(false, Relaxed);
        for post in self.store.iter_mut().take(link.in_flight()) {
            post.again = true;
        }
    }
}
