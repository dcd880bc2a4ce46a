//! From the jobs of a cycle to rows of a batch nothing is allocated per value, only per job: an allocator that counts by thread proves it.

use millrace_s7::address::Address;
use millrace_s7::codec::Codec;
use millrace_s7::connection::Dial;
use millrace_s7::reading::Reader;
use millrace_s7_sim::server::Limits;
use millrace_s7_sim::{Memory, Server};
use millrace_schemas::{Batch, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A CPU on a thread of its own, for as long as the process lives: what it allocates is not counted here.
fn cpu() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut memory = Memory::new();
            memory.resize(1, 1024);
            let server = Server::start(LOCAL, memory, Limits { pdu: 960, jobs: 1, connections: 8 }).await.unwrap();
            tell.send(server.addr()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

/// Reads these tags again and again, and counts what the last reading allocated, and its jobs.
async fn counted(endpoint: SocketAddr, tags: &[String]) -> (u64, usize) {
    let addresses: Arc<[Address]> = tags.iter().map(|tag| Address::parse(tag, None).unwrap()).collect();
    let second = Duration::from_secs(1);
    let named = "rack 0, slot 1".to_owned();
    let dial =
        Dial { endpoint: endpoint.to_string(), own_tsap: 0x0100, remote_tsap: 0x0201, named, pdu: 960, jobs: 1, timeout: 10 * second };
    let (wire, mut driver) = dial.connect().await.unwrap();
    let mut reader = Reader::new(addresses.clone(), std::iter::once(0..addresses.len()), 16);
    reader.connected(wire.pdu);
    let codec = Codec::default();
    let reading = async {
        let (mut batch, mut last) = (Batch::new(), 0);
        for _ in 0..20 {
            batch.clear();
            let before = ALLOCATIONS.with(Cell::get);
            reader.read(&[0], &wire).await.unwrap();
            let image = reader.image(0).unwrap();
            for (tag, address) in addresses.iter().enumerate() {
                let (value, status) = codec.decode(address, image.of(tag, address.size()), &mut batch);
                assert!(value != Value::Null && status.is_good());
            }
            last = ALLOCATIONS.with(Cell::get) - before;
        }
        last
    };
    let jobs = millrace_s7::batching::Batching::new(&addresses, 0..addresses.len(), wire.pdu, 16, &Default::default()).jobs.len();
    tokio::select! {
        error = driver.run() => panic!("{error}"),
        last = reading => (last, jobs),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_reading_allocates_for_its_jobs_and_not_for_its_values() {
    let cpu = cpu();
    let reals = |count: usize| (0..count).map(|n| format!("DB1.DBD{}:REAL", 4 * n)).collect::<Vec<_>>();
    let (few, many) = (counted(cpu, &reals(2)).await, counted(cpu, &reals(230)).await);
    assert_eq!((few.1, many.1), (1, 1), "both are one job");
    assert_eq!(few.0, many.0, "2 values took {} allocations, 230 took {}", few.0, many.0);
    assert!(many.0 <= 12, "{} allocations for one job", many.0);
    let words: Vec<String> = (0..460).map(|n| format!("DB1.DBW{}", 2 * n)).collect();
    assert_eq!(counted(cpu, &words).await, many);
}
