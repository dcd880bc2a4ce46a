//! Units behind one socket, as a gateway has them: TCP, or RTU frames as they are on the serial line behind it.

use crate::memory::{Memory, Written};
use millrace_modbus::frame::crc;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How a gateway speaks.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// RTU frames instead of Modbus TCP.
    pub is_rtu: bool,
    /// Requests to different units are answered as they are ready; else one after the other, as a serial line behind a gateway has it.
    pub is_parallel: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), is_rtu: false, is_parallel: false }
    }
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Answers carry this transaction id instead of their request's.
    pub transaction_id: Option<u16>,
    /// Closes the connection after each answer.
    pub closes: bool,
    /// Sends these bytes before each answer: noise on the line, or the echo of a bad adapter.
    pub noise: Vec<u8>,
    /// Sends back each request before its answer.
    pub echoes: bool,
    /// Answers only so many bytes.
    pub cut_at: Option<usize>,
    /// Flips a bit of the next answer's last byte.
    pub corrupts: bool,
    /// Answers in the name of this unit.
    pub answers_as: Option<u8>,
    /// Answers with this PDU, whatever was asked.
    pub pdu: Option<Vec<u8>>,
}

#[derive(Default)]
struct Units {
    memories: BTreeMap<u8, Memory>,
    dead: Vec<u8>,
    slow: BTreeMap<u8, Duration>,
    faults: Faults,
    written: Vec<Written>,
    /// Function and unit of every request, the last ones.
    requests: BTreeMap<u8, u64>,
}

struct Shared {
    units: Mutex<Units>,
    requests: AtomicU64,
    accepted: AtomicU64,
    options: Options,
}

/// Units behind one socket. Dropped, it is gone.
pub struct Gateway {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

impl Gateway {
    /// Errors: the address can't be listened on.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { units: Mutex::default(), requests: AtomicU64::new(0), accepted: AtomicU64::new(0), options });
        let accept = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { addr, shared, accept })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As the YAML names it.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.shared.options.is_rtu { "rtu+tcp" } else { "tcp" }, self.addr)
    }

    /// Looks at or changes a unit, which is made where there is none.
    pub fn unit<T>(&self, unit: u8, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.shared.units.lock().memories.entry(unit).or_default())
    }

    /// The unit answers nothing until [`Self::revive`].
    pub fn kill(&self, unit: u8) {
        self.shared.units.lock().dead.push(unit);
    }

    pub fn revive(&self, unit: u8) {
        self.shared.units.lock().dead.retain(|dead| *dead != unit);
    }

    /// The unit takes so long to answer.
    pub fn slow(&self, unit: u8, delay: Duration) {
        self.shared.units.lock().slow.insert(unit, delay);
    }

    pub fn inflict(&self, faults: Faults) {
        self.shared.units.lock().faults = faults;
    }

    /// Everything that was written, in order.
    pub fn written(&self) -> Vec<Written> {
        self.shared.units.lock().written.clone()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// Requests of a function so far.
    pub fn requests_of(&self, function: u8) -> u64 {
        self.shared.units.lock().requests.get(&function).copied().unwrap_or(0)
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        shared.accepted.fetch_add(1, Relaxed);
        let shared = shared.clone();
        // Those that ended are taken out; all end with the gateway.
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let _ = serve(stream, &shared).await;
        });
    }
}

/// A request off the wire: transaction id, unit, PDU, and how many bytes it took.
struct Asked {
    id: u16,
    unit: u8,
    pdu: Vec<u8>,
    taken: usize,
}

/// Serves one connection until it ends.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shared: &Arc<Shared>) -> std::io::Result<()> {
    let (mut read, write) = tokio::io::split(stream);
    let write = Arc::new(tokio::sync::Mutex::new(write));
    let mut held = Vec::with_capacity(1024);
    loop {
        while let Some(asked) = if shared.options.is_rtu { rtu_request(&held) } else { tcp_request(&held)? } {
            let raw: Vec<u8> = held.drain(..asked.taken).collect();
            shared.requests.fetch_add(1, Relaxed);
            let Some((answer, delay, closes)) = answer(shared, &asked, &raw) else { continue };
            let sending = {
                let write = write.clone();
                async move {
                    tokio::time::sleep(delay).await;
                    write.lock().await.write_all(&answer).await
                }
            };
            if shared.options.is_parallel {
                tokio::spawn(sending);
            } else {
                sending.await?;
            }
            if closes {
                return write.lock().await.shutdown().await;
            }
        }
        if read.read_buf(&mut held).await? == 0 || held.len() > 4096 {
            return Ok(());
        }
    }
}

/// The bytes to send back, after how long, and whether the connection ends then. `None`: silence.
fn answer(shared: &Shared, asked: &Asked, raw: &[u8]) -> Option<(Vec<u8>, Duration, bool)> {
    let mut units = shared.units.lock();
    *units.requests.entry(asked.pdu[0]).or_default() += 1;
    if units.dead.contains(&asked.unit) {
        return None;
    }
    let memory = units.memories.get_mut(&asked.unit)?;
    if memory.hangs_up(&asked.pdu) {
        return Some((Vec::new(), Duration::ZERO, true));
    }
    let (pdu, written) = memory.answer(asked.unit, &asked.pdu);
    units.written.extend(written);
    let pdu = units.faults.pdu.clone().unwrap_or(pdu);
    let unit = units.faults.answers_as.unwrap_or(asked.unit);
    let mut frame = Vec::with_capacity(pdu.len() + 8);
    if shared.options.is_rtu {
        frame.push(unit);
        frame.extend_from_slice(&pdu);
        let crc = crc(&frame);
        frame.extend_from_slice(&crc.to_le_bytes());
    } else {
        frame.extend_from_slice(&units.faults.transaction_id.unwrap_or(asked.id).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(&(pdu.len() as u16 + 1).to_be_bytes());
        frame.push(unit);
        frame.extend_from_slice(&pdu);
    }
    if std::mem::take(&mut units.faults.corrupts)
        && let Some(last) = frame.last_mut()
    {
        *last ^= 1;
    }
    frame.truncate(units.faults.cut_at.unwrap_or(frame.len()));
    let mut bytes = if units.faults.echoes { raw.to_vec() } else { Vec::new() };
    bytes.extend_from_slice(&units.faults.noise);
    bytes.extend_from_slice(&frame);
    Some((bytes, units.slow.get(&asked.unit).copied().unwrap_or_default(), units.faults.closes))
}

fn tcp_request(held: &[u8]) -> std::io::Result<Option<Asked>> {
    let Some(head) = held.first_chunk::<7>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if head[2..4] != [0, 0] || !(2..=254).contains(&length) {
        return Err(std::io::Error::other("not Modbus TCP"));
    }
    Ok(held.get(7..6 + length).map(|pdu| Asked {
        id: u16::from_be_bytes([head[0], head[1]]),
        unit: head[6],
        pdu: pdu.to_vec(),
        taken: 6 + length,
    }))
}

fn rtu_request(held: &[u8]) -> Option<Asked> {
    let length = match held.get(1)? {
        15 | 16 => 7 + usize::from(*held.get(6)?),
        22 => 8,
        _ => 6,
    };
    let frame = held.get(..length + 2)?;
    if crc(&frame[..length]).to_le_bytes() != frame[length..] {
        // Noise: a byte is skipped, and the next one tried.
        return rtu_request(&held[1..]).map(|asked| Asked { taken: asked.taken + 1, ..asked });
    }
    Some(Asked { id: 0, unit: frame[0], pdu: frame[1..length].to_vec(), taken: length + 2 })
}
