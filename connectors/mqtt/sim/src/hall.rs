//! The hall: broker, cells and edge node, together and with their faults.

use crate::broker::{Bounds, Break, Broker};
use crate::cell::Cell;
use crate::device::{Device, Gauges, Order};
use crate::edge::Edge;
use crate::fault::Fault;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the hall is equipped with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the broker listens; port 0 is a free one.
    pub listen: SocketAddr,
    /// Assembly cells: `cell-1`, `cell-2`, ...
    pub cells: usize,
    /// Readings per second of each cell.
    pub cell_rate: f64,
    /// Machines behind the edge node: `packer-1`, `packer-2`, ...
    pub packers: usize,
    /// Readings per second of each machine.
    pub packer_rate: f64,
    /// The Sparkplug host without which the edge node sends nothing.
    pub primary_host: Option<String>,
    /// Begins at rest: nothing is made until [`Hall::rest`] says so.
    pub at_rest: bool,
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            cells: 4,
            cell_rate: 10.0,
            packers: 2,
            packer_rate: 5.0,
            primary_host: None,
            at_rest: false,
            bounds: Bounds::default(),
        }
    }
}

/// Sparkplug's names of the edge node.
pub const GROUP: &str = "packaging";
pub const NODE: &str = "line-1";

/// A running hall; dropped, everything in it ends.
pub struct Hall {
    broker: Broker,
    members: Vec<Member>,
    tasks: Vec<JoinHandle<()>>,
}

/// A client of the broker, with the devices behind it.
struct Member {
    client_id: String,
    devices: Vec<(String, Arc<Gauges>)>,
    orders: mpsc::Sender<Order>,
}

impl Hall {
    /// Starts the broker, then the devices, which connect by themselves.
    ///
    /// Errors: the address is taken or not this machine's.
    pub async fn start(options: Options) -> io::Result<Self> {
        let broker = Broker::listen(options.listen, options.bounds).await?;
        let endpoint = endpoint(broker.addr());
        let mut hall = Self { broker, members: Vec::new(), tasks: Vec::new() };
        // At rest before it is started: it reads at once.
        let gauges = || Arc::new(Gauges { resting: options.at_rest.into(), ..Gauges::default() });
        for number in 1..=options.cells {
            let (sender, orders) = mpsc::channel(16);
            let (name, gauges) = (format!("cell-{number}"), gauges());
            let member = Member { client_id: name.clone(), devices: vec![(name.clone(), gauges.clone())], orders: sender };
            let cell = Cell { name, endpoint: endpoint.clone(), every: period(options.cell_rate), gauges, orders };
            hall.members.push(member);
            hall.tasks.push(tokio::spawn(cell.run()));
        }
        if options.packers > 0 {
            let (sender, orders) = mpsc::channel(16);
            let devices: Vec<_> = (1..=options.packers).map(|n| (format!("packer-{n}"), gauges())).collect();
            let edge = Edge {
                group: GROUP.to_owned(),
                node: NODE.to_owned(),
                devices: devices.clone(),
                endpoint,
                every: period(options.packer_rate),
                primary_host: options.primary_host,
                orders,
            };
            hall.members.push(Member { client_id: edge.client_id(), devices, orders: sender });
            hall.tasks.push(tokio::spawn(edge.run()));
        }
        Ok(hall)
    }

    /// Where its broker is: `mqtt://127.0.0.1:1883`.
    pub fn endpoint(&self) -> String {
        endpoint(self.broker.addr())
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Every device at this moment.
    pub fn devices(&self) -> Vec<Device> {
        let of_member = |member: &Member| {
            let read = |(name, gauges): &(String, Arc<Gauges>)| gauges.read(name, &member.client_id);
            member.devices.iter().map(read).collect::<Vec<_>>()
        };
        self.members.iter().flat_map(of_member).collect()
    }

    /// Ids of the broker's clients that belong to the hall.
    pub fn clients(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.client_id.as_str())
    }

    /// Nothing new is made, or it is again; what is stored is sent either way.
    pub fn rest(&self, at_rest: bool) {
        for (_, gauges) in self.members.iter().flat_map(|member| &member.devices) {
            gauges.resting.store(at_rest, Relaxed);
        }
    }

    /// Makes a fault happen now.
    pub fn inflict(&self, fault: &Fault) {
        let order = |client_id: &str, order: Order| {
            if let Some(member) = self.members.iter().find(|member| member.client_id == client_id) {
                // A member that does not keep up with its orders has faults enough.
                let _ = member.orders.try_send(order);
            }
        };
        match fault {
            Fault::Cut { client_id, lasts } => self.broker.break_cable(client_id, Break::Cut, *lasts),
            Fault::Silence { client_id, lasts } => self.broker.break_cable(client_id, Break::Silence, *lasts),
            Fault::Death { client_id, lasts } => order(client_id, Order::Die(*lasts)),
            Fault::Burst { client_id, readings } => order(client_id, Order::Burst(*readings)),
            Fault::Hostile { client_id } => order(client_id, Order::Hostile),
        }
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn endpoint(addr: SocketAddr) -> String {
    // Where it listens on every interface, its own devices come over the loopback.
    match addr.ip().is_unspecified() {
        true => format!("mqtt://127.0.0.1:{}", addr.port()),
        false => format!("mqtt://{addr}"),
    }
}

fn period(rate: f64) -> Duration {
    Duration::from_secs_f64(1.0 / rate.clamp(0.001, 1000.0))
}
