//! The CPU's side of the wire: connect, setup, read, write, its state and its names.

use crate::memory::{COUNTERS, GOOD, Memory, TIMERS};
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// What a CPU allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub pdu: u16,
    pub jobs: u16,
    pub connections: usize,
}

impl Default for Limits {
    /// An S7-1200.
    fn default() -> Self {
        Self { pdu: 240, jobs: 3, connections: 8 }
    }
}

/// An answer to a read that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Garbled {
    /// Only so many bytes of its frame come.
    Cut(usize),
    /// It carries the reference of another request.
    Reference,
    /// It says one item less than was asked for.
    Fewer,
    /// Its first item claims more bytes than were asked for.
    Longer,
    /// An error of the whole job, class and code.
    Error(u16),
}

impl Garbled {
    /// Source: the layout of an answer, 12 bytes of head (the reference at 4, the error at 10), function and count, then the items.
    fn pdu(self, answer: &mut [u8]) {
        match self {
            Self::Cut(_) => {}
            Self::Reference => answer[5] ^= 0x55,
            Self::Fewer => answer[13] -= 1,
            Self::Longer => answer[16] += 1,
            Self::Error(error) => answer[10..12].copy_from_slice(&error.to_be_bytes()),
        }
    }
}

/// What the server and the program share.
#[derive(Debug)]
pub struct Cpu {
    pub memory: Mutex<Memory>,
    limits: Limits,
    pub is_silent: AtomicBool,
    pub is_stopped: AtomicBool,
    pub refuses: AtomicBool,
    /// It refuses to say what it is and has, as newer CPUs do.
    pub says_little: AtomicBool,
    /// What happens to the answers to reads, for tests.
    pub garbled: Mutex<Option<Garbled>>,
    /// Jobs that were read and written: for tests.
    pub reads: AtomicU64,
    pub writes: AtomicU64,
}

/// A CPU that listens; dropped, it hangs up.
#[derive(Debug)]
pub struct Server {
    pub cpu: Arc<Cpu>,
    addr: SocketAddr,
    cut: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// The longest frame that is taken.
const FRAME_BOUND: usize = 2048;

impl Server {
    pub async fn start(listen: SocketAddr, memory: Memory, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let cpu = Arc::new(Cpu {
            memory: Mutex::new(memory),
            limits,
            is_silent: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            says_little: AtomicBool::new(false),
            garbled: Mutex::new(None),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let (cut, cuts) = watch::channel(0);
        let free = Arc::new(Semaphore::new(limits.connections));
        let serving = cpu.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // No connection left: hung up at once, as a CPU does.
                let Ok(permit) = free.clone().try_acquire_owned() else { continue };
                let (cpu, mut cuts) = (serving.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        ended = converse(stream, &cpu) => if let Err(error) = ended { tracing::debug!(%error, "a connection ended") },
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Ok(Self { cpu, addr, cut, task })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

async fn converse(mut stream: TcpStream, cpu: &Cpu) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pdu = cpu.limits.pdu;
    let mut whole = Vec::new();
    loop {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[0] != 3 || !(7..=FRAME_BOUND).contains(&length) {
            return Err(io::Error::other("not a frame"));
        }
        let mut frame = vec![0; length - 4];
        stream.read_exact(&mut frame).await?;
        let header = 1 + usize::from(frame[0]);
        if header > frame.len() || header < 3 {
            return Err(io::Error::other("not a frame"));
        }
        match frame[1] & 0xF0 {
            0xE0 if header >= 7 => {
                let mut answer = vec![3, 0, 0, 0, frame[0], 0xD0, frame[4], frame[5], 0, 1, 0];
                answer.extend_from_slice(&frame[7..header]);
                answer[3] = answer.len() as u8;
                stream.write_all(&answer).await?;
                continue;
            }
            0xF0 => {}
            _ => return Ok(()),
        }
        whole.extend_from_slice(&frame[header..]);
        if whole.len() > FRAME_BOUND {
            return Err(io::Error::other("too long"));
        }
        if frame[2] & 0x80 == 0 {
            continue;
        }
        let request = std::mem::take(&mut whole);
        if cpu.is_silent.load(Ordering::Relaxed) {
            continue;
        }
        let Some(mut answer) = cpu.answer(&request, &mut pdu) else { return Err(io::Error::other("not a request")) };
        let garbled = *cpu.garbled.lock();
        let garbled = garbled.filter(|_| answer[1] == 3 && answer.len() > 18 && answer[12] == 4);
        if let Some(garbled) = garbled {
            garbled.pdu(&mut answer);
        }
        let mut out = vec![3, 0];
        out.extend((answer.len() as u16 + 7).to_be_bytes());
        out.extend([2, 0xF0, 0x80]);
        out.extend_from_slice(&answer);
        if let Some(Garbled::Cut(bytes)) = garbled {
            out.truncate(bytes);
        }
        stream.write_all(&out).await?;
    }
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// One item of a request.
struct Item {
    kind: u8,
    count: usize,
    db: u16,
    area: u8,
    address: usize,
}

fn items(parameters: &[u8]) -> Option<Vec<Item>> {
    let count = usize::from(*parameters.get(1)?);
    let specs = parameters.get(2..)?;
    let item = |spec: &[u8]| {
        let is_item = spec[..3] == [0x12, 0x0A, 0x10];
        is_item.then(|| Item {
            kind: spec[3],
            count: usize::from(u16::from_be_bytes([spec[4], spec[5]])),
            db: u16::from_be_bytes([spec[6], spec[7]]),
            area: spec[8],
            address: usize::from(spec[9]) << 16 | usize::from(spec[10]) << 8 | usize::from(spec[11]),
        })
    };
    let items: Option<Vec<Item>> = specs.chunks_exact(12).map(item).collect();
    items.filter(|items| items.len() == count)
}

impl Item {
    /// The first byte and the number of bytes.
    fn bytes(&self) -> (usize, usize) {
        match self.area {
            TIMERS | COUNTERS => (self.address * 2, self.count * 2),
            _ => (self.address / 8, self.count),
        }
    }
}

impl Cpu {
    /// The answer to an S7 PDU; `None`: hang up.
    fn answer(&self, request: &[u8], pdu: &mut u16) -> Option<Vec<u8>> {
        if request.len() < 10 || request[0] != 0x32 || request.len() > usize::from(*pdu) {
            return None;
        }
        let (parameters, data) = (usize::from(two(request, 6)?), usize::from(two(request, 8)?));
        let parameters = request.get(10..10 + parameters)?;
        let data = request.get(10 + parameters.len()..10 + parameters.len() + data)?;
        let reference = [request[4], request[5]];
        if request[1] == 7 {
            return self.user_data(reference, parameters, data);
        }
        let ack = |error: u16, parameters: &[u8], data: &[u8]| {
            let mut out = vec![0x32, 3, 0, 0, reference[0], reference[1]];
            out.extend((parameters.len() as u16).to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(error.to_be_bytes());
            out.extend_from_slice(parameters);
            out.extend_from_slice(data);
            Some(out)
        };
        match *parameters.first()? {
            0xF0 => {
                *pdu = two(parameters, 6)?.min(self.limits.pdu);
                let jobs = two(parameters, 2)?.clamp(1, self.limits.jobs).to_be_bytes();
                let size = pdu.to_be_bytes();
                ack(0, &[0xF0, 0, jobs[0], jobs[1], jobs[0], jobs[1], size[0], size[1]], &[])
            }
            4 | 5 if self.refuses.load(Ordering::Relaxed) => ack(0x8104, &[], &[]),
            4 => {
                self.reads.fetch_add(1, Ordering::Relaxed);
                let items = items(parameters)?;
                let data = self.read(&items);
                if 14 + data.len() > usize::from(*pdu) {
                    return ack(0x8500, &[], &[]);
                }
                ack(0, &[4, items.len() as u8], &data)
            }
            5 => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                let items = items(parameters)?;
                let codes = self.write(&items, data)?;
                ack(0, &[5, items.len() as u8], &codes)
            }
            _ => ack(0x8104, &[], &[]),
        }
    }

    fn read(&self, items: &[Item]) -> Vec<u8> {
        let memory = self.memory.lock();
        let mut out: Vec<u8> = Vec::new();
        for item in items {
            if out.len() % 2 == 1 {
                out.push(0);
            }
            let (from, length) = item.bytes();
            if item.kind == 1 {
                match memory.read(item.area, item.db, item.address / 8, 1) {
                    Ok(byte) => out.extend([GOOD, 3, 0, 1, byte[0] >> (item.address % 8) & 1]),
                    Err(code) => out.extend([code, 0, 0, 0]),
                }
                continue;
            }
            match memory.read(item.area, item.db, from, length) {
                Ok(bytes) => {
                    let is_counted = matches!(item.area, TIMERS | COUNTERS);
                    let said = if is_counted { length } else { length * 8 };
                    out.extend([GOOD, if is_counted { 9 } else { 4 }]);
                    out.extend((said as u16).to_be_bytes());
                    out.extend_from_slice(bytes);
                }
                Err(code) => out.extend([code, 0, 0, 0]),
            }
        }
        out
    }

    fn write(&self, items: &[Item], data: &[u8]) -> Option<Vec<u8>> {
        let mut memory = self.memory.lock();
        let mut rest = data;
        let mut codes = Vec::new();
        for item in items {
            let length = usize::from(two(rest, 2)?);
            let is_bits = matches!(rest[1], 3..=5);
            let bytes = if is_bits { length.div_ceil(8) } else { length };
            let value = rest.get(4..4 + bytes)?;
            let written = match item.kind {
                1 => memory.set_bit(item.area, item.db, item.address / 8, (item.address % 8) as u8, value.first()? & 1 == 1),
                _ => memory.write(item.area, item.db, item.bytes().0, value),
            };
            codes.push(written.err().unwrap_or(GOOD));
            rest = rest.get(4 + bytes + bytes % 2..).unwrap_or_default();
        }
        Some(codes)
    }

    fn user_data(&self, reference: [u8; 2], parameters: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let (group, function) = (*parameters.get(5)? & 0x0F, *parameters.get(6)?);
        let answer = match (group, function) {
            _ if self.says_little.load(Ordering::Relaxed) => None,
            (4, 1) => self.szl(two(data, 4)?),
            (3, 2) => {
                let memory = self.memory.lock();
                Some(memory.blocks().flat_map(|(db, _)| [db.to_be_bytes()[0], db.to_be_bytes()[1], 0x22, 5]).collect())
            }
            (3, 3) => self.block(data.get(6..11)?),
            _ => None,
        };
        let (error, payload) = match answer {
            Some(payload) => ([0, 0], [vec![0xFF, 9], (payload.len() as u16).to_be_bytes().to_vec(), payload].concat()),
            None => ([0xD4, 0x01], vec![0x0A, 0, 0, 0]),
        };
        let mut out = vec![0x32, 7, 0, 0, reference[0], reference[1], 0, 12];
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend([0, 1, 0x12, 8, 0x12, 0x80 | group, function, 0, 0, 0, error[0], error[1]]);
        out.extend(payload);
        Some(out)
    }

    fn szl(&self, id: u16) -> Option<Vec<u8>> {
        let record = |bytes: &[&[u8]], size: usize| {
            let mut record = bytes.concat();
            record.resize(size, 0);
            record
        };
        let (size, records): (u16, Vec<Vec<u8>>) = match id {
            0x0424 => {
                let state = if self.is_stopped.load(Ordering::Relaxed) { 4 } else { 8 };
                (20, vec![record(&[&[0x51, 0x44, 0xFF, state]], 20)])
            }
            0x0011 => (
                28,
                vec![
                    record(&[&[0, 1], b"6ES7 214-1AG40-0XB0 "], 28),
                    [record(&[&[0, 7], b"                    "], 24), vec![b'V', 4, 2, 0]].concat(),
                ],
            ),
            0x001C => (34, vec![record(&[&[0, 1], b"Oven"], 34), record(&[&[0, 7], b"CPU 1214C (simulated)"], 34)]),
            0x0131 => {
                let (pdu, connections) = (self.limits.pdu.to_be_bytes(), (self.limits.connections as u16).to_be_bytes());
                (40, vec![record(&[&[0, 1], &pdu, &connections], 40)])
            }
            _ => return None,
        };
        let mut out = id.to_be_bytes().to_vec();
        out.extend([0, 0]);
        out.extend(size.to_be_bytes());
        out.extend((records.len() as u16).to_be_bytes());
        out.extend(records.concat());
        Some(out)
    }

    /// What is said of a block: its length at byte 40.
    fn block(&self, digits: &[u8]) -> Option<Vec<u8>> {
        let db: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let (_, length) = self.memory.lock().blocks().find(|(number, _)| *number == db)?;
        let mut info = vec![0; 74];
        info[1] = b'A';
        info[40..42].copy_from_slice(&(length as u16).to_be_bytes());
        Some(info)
    }
}
