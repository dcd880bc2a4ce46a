//! From a filled batch to bytes nothing is allocated.

use millrace_schemas::{Batch, Flags, Micros, Row, SampleMeta, StatusCode, TagId, avro, json, protobuf};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting touches only this thread's cell, which needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `System.alloc` with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: `at` came from `System.alloc` with this layout.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn ten_thousand_rows_become_bytes_without_an_allocation() {
    let mut batch = Batch::new();
    let mut allocations = 0;
    let mut out = Vec::new();
    for round in 0..3 {
        batch.clear();
        out.clear();
        let before = ALLOCATIONS.get();
        for n in 0..10_000_i64 {
            let value = match n % 8 {
                0 => millrace_schemas::Value::Double(n as f64 / 7.0),
                1 => millrace_schemas::Value::Int(n),
                2 => millrace_schemas::Value::UInt(u64::MAX - n as u64),
                3 => batch.text("running \"hot\""),
                4 => batch.doubles([1.5, n as f64], &[]),
                5 => batch.longs([n, -n, 3, 4], &[2, 2]),
                6 => millrace_schemas::Value::Bytes(batch.push_bytes(&n.to_le_bytes())),
                _ => millrace_schemas::Value::Struct(batch.push_bytes(b"{\"a\": [1, null]}")),
            };
            let (status, flags) = (StatusCode::GOOD, Flags::default());
            batch.rows.push(Row { time: Micros(n), server_time: Micros(n), value, tag: TagId(0), status, flags });
        }
        for (n, row) in batch.rows.iter().enumerate() {
            let meta = SampleMeta {
                tag: "acme/detroit/body/press-1/force",
                def: 1,
                read_time: Micros(n as i64),
                device_time: Some(Micros(7)),
                source: "acme/detroit/press-1",
                seq: n as i64,
            };
            avro::encode(&meta, row, &batch.heap, &mut out);
            json::encode(&meta, row, &batch.heap, &mut out);
            protobuf::encode(&meta, row, &batch.heap, &mut out);
        }
        allocations = ALLOCATIONS.get() - before;
        assert!(round > 0 || allocations > 0, "the counter counts");
    }
    assert_eq!(allocations, 0);
}
