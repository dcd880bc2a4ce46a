//! From an answer on the line to rows of a batch nothing is allocated, however many values it has: a counting allocator proves it.

use millrace_kit::registers::{Encoding, Order, WordType};
use millrace_modbus::address::Table;
use millrace_modbus::decode::{self, Counters};
use millrace_modbus::endpoint::Endpoint;
use millrace_modbus::line::{Event, Line, LineSettings, Outcome};
use millrace_modbus::pdu::Request;
use millrace_modbus::planner::{Block, Piece};
use millrace_modbus::point::Point;
use millrace_schemas::{Batch, Micros, TagId, Value};
use millrace_testkit::memory::allocations;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

fn point(word: WordType, start: u16) -> Point {
    Point {
        table: Table::Holding,
        start,
        count: word.registers(),
        word,
        order: Order::Cdab,
        encoding: Encoding::Cp1252,
        bits: None,
        nulls: Box::new([0x8000]),
        counter: None,
        read_back: false,
    }
}

/// Reads one block of these points again and again, and counts what the last reading allocated.
async fn counted(points: &[Point], endpoint: &str) -> (u64, usize) {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let (near, mut far) = tokio::io::duplex(4096);
    let second = Duration::from_secs(1);
    let settings =
        LineSettings { timeout: second, pause: Duration::ZERO, connect_delay: Duration::ZERO, in_flight: 1, ids: true, echo: false };
    let mut line = Line::new(Box::new(near), &endpoint, settings);
    let pieces = (0..).zip(points).map(|(tag, point)| Piece { table: point.table, start: point.start, count: point.count, tag }).collect();
    let block = Block::of(pieces, 2);
    let ids: Vec<TagId> = (0..points.len() as u32).map(TagId).collect();
    let mut counters = Counters::of(vec![TagId::NONE; points.len()]);
    let mut batch = Batch::new();
    let mut last = 0;
    for round in 0..10u8 {
        batch.clear();
        line.send(round.into(), 1, false, Request::Read(block.read)).await.unwrap();
        let mut asked = vec![0; endpoint.framing().overhead_bytes() + 5];
        far.read_exact(&mut asked).await.unwrap();
        let data = vec![b'0' + round; block.read.data_bytes()];
        let mut answer = [&[1, 3, data.len() as u8][..], &data].concat();
        if asked.len() == 12 {
            let head = [asked[0], asked[1], 0, 0, 0, answer.len() as u8];
            answer.splice(0..0, head);
        } else {
            answer.extend(millrace_modbus::frame::crc(&answer).to_le_bytes());
        }
        far.write_all(&answer).await.unwrap();
        let before = allocations();
        let event = line.next().await;
        assert_eq!(event, Event::Answer { token: round.into(), outcome: Outcome::Data });
        decode::rows(points, &ids, &block, line.data(), Micros::now(), &mut counters, &mut batch);
        last = allocations() - before;
    }
    assert!(batch.rows.iter().all(|row| row.value != Value::Null && row.status.is_good()), "every value is there: {:?}", batch.rows);
    (last, batch.rows.len())
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_answer_becomes_rows_without_an_allocation() {
    let floats: Vec<Point> = (0..62).map(|n| point(WordType::F32, 2 * n)).collect();
    let numbers: Vec<Point> = (0..125).map(|n| point(WordType::U16, n)).collect();
    let texts: Vec<Point> = (0..10).map(|n| Point { order: Order::Abcd, ..point(WordType::Text(20), 10 * n) }).collect();
    for endpoint in ["tcp://127.0.0.1:502", "rtu+tcp://127.0.0.1:502"] {
        for points in [&floats[..], &numbers, &texts, &floats[..1]] {
            assert_eq!(counted(points, endpoint).await, (0, points.len()), "{endpoint}, {} of {}", points.len(), points[0].word);
        }
    }
}
