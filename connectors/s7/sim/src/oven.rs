//! The oven's program, and its data block.
//!
//! ```text
//! DB1     0    REAL        zone1        degrees          36   REAL         peak
//!         4.0  BOOL        burner                        40   DTL          finished
//!         4.1  BOOL        part_done                     52   TIME         baked
//!         6    INT         recipe                        56   DINT         unacknowledged
//!         8    REAL        setpoint     is written       60.0 BOOL         part_ack   is written
//!         12   STRING[18]  serial                        62   length of the block
//!         32   DINT        parts
//!
//! bakes ──> part_done up, its data stand still ──part_ack up──> part_done down ──part_ack down──> bakes the next
//!                                        └── no acknowledgement in time: counted, and it goes on
//! ```

use crate::fault::Kind;
use crate::memory::{DATA_BLOCK, Memory};
use crate::server::{Cpu, Limits, Server};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How the oven works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// From one part to the next.
    pub part_every: Duration,
    /// How long a part waits for its acknowledgement.
    pub ack_within: Duration,
    pub limits: Limits,
    pub seed: u64,
    /// REALs in [`LOAD_DB`], which all change every second.
    pub load: u16,
}

impl Options {
    pub fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            part_every: Duration::from_secs(5),
            ack_within: Duration::from_secs(30),
            limits: Limits::default(),
            seed: 1,
            load: 0,
        }
    }
}

/// An oven that runs; dropped, it stops.
#[derive(Debug)]
pub struct Oven {
    server: Server,
    program: JoinHandle<()>,
    is_at_rest: Arc<AtomicBool>,
}

impl Drop for Oven {
    fn drop(&mut self) {
        self.program.abort();
    }
}

const DB: u16 = 1;
pub const LENGTH: usize = 62;
/// Where the block ends under [`Kind::Short`].
pub const SHORT: usize = 40;
/// The block of `Options::load`.
pub const LOAD_DB: u16 = 100;
const CYCLE: Duration = Duration::from_millis(10);

impl Oven {
    pub async fn start(options: Options) -> io::Result<Self> {
        let mut memory = Memory::new();
        memory.resize(DB, LENGTH);
        let server = Server::start(options.listen, memory, options.limits).await?;
        let mut program = Program::new(&options);
        {
            let mut memory = server.cpu.memory.lock();
            put(&mut memory, 8, &180.0_f32.to_be_bytes());
            put(&mut memory, 12, &[18, 0]);
            if options.load > 0 {
                memory.resize(LOAD_DB, 4 * usize::from(options.load));
            }
        }
        let (cpu, is_at_rest) = (server.cpu.clone(), Arc::new(AtomicBool::new(false)));
        let rests = is_at_rest.clone();
        let program = tokio::spawn(async move {
            let mut cycles = tokio::time::interval(CYCLE);
            cycles.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            for cycle in 0u64.. {
                cycles.tick().await;
                if cycle % 100 == 0 && options.load > 0 {
                    let values = (0..options.load).flat_map(|n| (f32::from(n) + cycle as f32 / 128.0).to_be_bytes());
                    let _ = cpu.memory.lock().write(DATA_BLOCK, LOAD_DB, 0, &values.collect::<Vec<u8>>());
                }
                if !cpu.is_stopped.load(Ordering::Relaxed) {
                    program.cycle(&mut cpu.memory.lock(), rests.load(Ordering::Relaxed));
                }
            }
        });
        Ok(Self { server, program, is_at_rest })
    }

    /// Begins no further part, or does again; one that is done is handed over all the same.
    pub fn rest(&self, is_at_rest: bool) {
        self.is_at_rest.store(is_at_rest, Ordering::Relaxed);
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.server.cpu
    }

    /// Parts that were finished.
    pub fn parts(&self) -> i32 {
        self.number(32)
    }

    /// Parts that nobody acknowledged in time.
    pub fn unacknowledged(&self) -> i32 {
        self.number(56)
    }

    fn number(&self, at: usize) -> i32 {
        let memory = self.server.cpu.memory.lock();
        memory.read(DATA_BLOCK, DB, at, 4).ok().and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes)
    }

    /// Ends the fault before, and begins this one.
    pub fn inflict(&self, fault: Kind) {
        let cpu = &self.server.cpu;
        cpu.is_silent.store(fault == Kind::Silence, Ordering::Relaxed);
        cpu.is_stopped.store(fault == Kind::Stop, Ordering::Relaxed);
        cpu.refuses.store(fault == Kind::Refuse, Ordering::Relaxed);
        cpu.memory.lock().resize(DB, if fault == Kind::Short { SHORT } else { LENGTH });
        if matches!(fault, Kind::Cut | Kind::Refuse) {
            self.server.cut();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Bakes,
    Done,
    Taken,
}

struct Program {
    step: Step,
    since: Instant,
    temperature: f32,
    peak: f32,
    parts: i32,
    unacknowledged: i32,
    part_every: Duration,
    ack_within: Duration,
    random: fastrand::Rng,
}

impl Program {
    fn new(options: &Options) -> Self {
        Self {
            step: Step::Bakes,
            since: Instant::now(),
            temperature: 20.0,
            peak: 0.0,
            parts: 0,
            unacknowledged: 0,
            part_every: options.part_every,
            ack_within: options.ack_within,
            random: fastrand::Rng::with_seed(options.seed),
        }
    }

    fn cycle(&mut self, memory: &mut Memory, is_at_rest: bool) {
        let setpoint = memory.read(DATA_BLOCK, DB, 8, 4).ok().and_then(|bytes| bytes.try_into().ok()).map_or(0.0, f32::from_be_bytes);
        let burner = self.temperature < setpoint;
        self.temperature += if burner { 0.4 } else { -0.2 } + self.random.f32() * 0.1 - 0.05;
        self.peak = self.peak.max(self.temperature);
        put(memory, 0, &self.temperature.to_be_bytes());
        bit(memory, 4, 0, burner);
        let ack = memory.bit(DATA_BLOCK, DB, 60, 0);
        let next = match self.step {
            Step::Bakes if self.since.elapsed() >= self.part_every && !is_at_rest => {
                self.finish(memory);
                Step::Done
            }
            Step::Done if ack => Step::Taken,
            Step::Done if self.since.elapsed() >= self.ack_within => {
                self.unacknowledged += 1;
                put(memory, 56, &self.unacknowledged.to_be_bytes());
                Step::Bakes
            }
            Step::Taken if !ack => Step::Bakes,
            step => step,
        };
        if next != self.step {
            self.step = next;
            self.since = Instant::now();
            bit(memory, 4, 1, next == Step::Done);
        }
    }

    /// The part's data, before its trigger.
    fn finish(&mut self, memory: &mut Memory) {
        self.parts += 1;
        let serial = format!("OVEN-{:08}", self.parts);
        put(memory, 12, &[18, serial.len() as u8]);
        put(memory, 14, serial.as_bytes());
        put(memory, 32, &self.parts.to_be_bytes());
        put(memory, 36, &self.peak.to_be_bytes());
        let now = TimeZone::UTC.to_datetime(Timestamp::now());
        let mut dtl = now.year().to_be_bytes().to_vec();
        dtl.extend([now.month(), now.day(), now.weekday().to_sunday_one_offset(), now.hour(), now.minute(), now.second()].map(|n| n as u8));
        dtl.extend(now.subsec_nanosecond().to_be_bytes());
        put(memory, 40, &dtl);
        put(memory, 52, &(self.since.elapsed().as_millis() as i32).to_be_bytes());
        self.peak = 0.0;
    }
}

/// A block that is too short for it, by a fault, goes without.
fn put(memory: &mut Memory, at: usize, bytes: &[u8]) {
    let _ = memory.write(DATA_BLOCK, DB, at, bytes);
}

fn bit(memory: &mut Memory, byte: usize, bit: u8, on: bool) {
    let _ = memory.set_bit(DATA_BLOCK, DB, byte, bit, on);
}
