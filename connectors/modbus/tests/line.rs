//! One line on a paused clock, the device's side written byte by byte: which answer belongs to which request, and what belongs to none.

use millrace_modbus::address::Table;
use millrace_modbus::frame::crc;
use millrace_modbus::line::{Event, Line, LineSettings, Lost, Outcome, Trouble};
use millrace_modbus::pdu::{Read, Request};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_millis(200);

const SETTINGS: LineSettings =
    LineSettings { timeout: TIMEOUT, pause: Duration::ZERO, connect_delay: Duration::ZERO, in_flight: 1, ids: true, echo: false };

struct Bench {
    line: Line,
    device: DuplexStream,
    is_tcp: bool,
}

impl Bench {
    fn on(endpoint: &str, settings: LineSettings) -> Self {
        let (near, device) = tokio::io::duplex(4096);
        let line = Line::new(Box::new(near), &endpoint.parse().unwrap(), settings);
        Self { line, device, is_tcp: endpoint.starts_with("tcp") }
    }

    fn tcp() -> Self {
        Self::on("tcp://127.0.0.1:502", SETTINGS)
    }

    fn serial(settings: LineSettings) -> Self {
        Self::on("rtu:///dev/ttyS9?baud=19200", settings)
    }

    /// Asks a unit for a holding register. Returns the request's bytes.
    async fn ask(&mut self, token: u64, unit: u8) -> Vec<u8> {
        let read = Read { table: Table::Holding, start: 7, count: 1, register_bytes: 2 };
        self.line.send(token, unit, false, Request::Read(read)).await.unwrap();
        let mut asked = vec![0; if self.is_tcp { 12 } else { 8 }];
        self.device.read_exact(&mut asked).await.unwrap();
        asked
    }

    /// The answer to a request: its register holds `value`.
    fn answer(&self, asked: &[u8], value: u8) -> Vec<u8> {
        if self.is_tcp {
            return vec![asked[0], asked[1], 0, 0, 0, 5, asked[6], 3, 2, 0, value];
        }
        let mut answer = vec![asked[0], 3, 2, 0, value];
        answer.extend(crc(&answer).to_le_bytes());
        answer
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.device.write_all(bytes).await.unwrap();
    }

    /// The next event must be the values of this request.
    async fn until_data(&mut self, token: u64, value: u8) {
        assert_eq!(self.line.next().await, Event::Answer { token, outcome: Outcome::Data });
        assert_eq!(self.line.data(), [0, value]);
    }

    async fn until_timeout(&mut self, token: u64) {
        let Event::Answer { token: got, outcome: Outcome::Trouble(Trouble::Timeout(_)) } = self.line.next().await else {
            panic!("no timeout");
        };
        assert_eq!(got, token);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_glued_together_in_another_order_each_find_their_request() {
    let mut bench = Bench::on("tcp://127.0.0.1:502", LineSettings { in_flight: 2, ..SETTINGS });
    let (first, second) = (bench.ask(1, 1).await, bench.ask(2, 2).await);
    assert_eq!(bench.line.ready_at(), None, "two are under way, and no more may be");
    let glued = [bench.answer(&second, 22), bench.answer(&first, 11)].concat();
    bench.says(&glued[..5]).await;
    bench.says(&glued[5..]).await;
    bench.until_data(2, 22).await;
    bench.until_data(1, 11).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_counted_and_one_that_was_never_asked_for_ends_the_line() {
    let mut bench = Bench::tcp();
    let first = bench.ask(1, 1).await;
    bench.until_timeout(1).await;
    let second = bench.ask(2, 1).await;
    let late = bench.answer(&first, 11);
    bench.says(&late).await;
    let answer = bench.answer(&second, 22);
    bench.says(&answer).await;
    bench.until_data(2, 22).await;
    assert_eq!(bench.line.counters.late, 1);
    let third = bench.ask(3, 1).await;
    let mut foreign = bench.answer(&third, 33);
    foreign[0] ^= 0x40;
    bench.says(&foreign).await;
    assert!(matches!(bench.line.next().await, Event::Lost(Lost::Stranger(_))));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_pieces_is_whole_and_one_that_stays_cut_says_after_how_many_bytes() {
    let mut bench = Bench::tcp();
    let asked = bench.ask(1, 1).await;
    let answer = bench.answer(&asked, 11);
    for byte in answer {
        bench.says(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.until_data(1, 11).await;
    let asked = bench.ask(2, 1).await;
    let answer = bench.answer(&asked, 22);
    bench.says(&answer[..9]).await;
    assert_eq!(bench.line.next().await, Event::Answer { token: 2, outcome: Outcome::Trouble(Trouble::Cut(9)) });
    assert!(bench.line.must_reopen() && bench.line.ready_at().is_none(), "where the next frame begins is not known");
}

#[tokio::test(start_paused = true)]
async fn without_ids_a_timeout_and_any_misfit_ask_for_a_new_connection() {
    for endpoint in ["tcp://127.0.0.1:502", "rtu+tcp://127.0.0.1:502"] {
        let mut bench = Bench::on(endpoint, LineSettings { ids: false, ..SETTINGS });
        bench.ask(1, 1).await;
        bench.until_timeout(1).await;
        assert!(bench.line.must_reopen() && bench.line.ready_at().is_none(), "{endpoint}");
    }
    let mut bench = Bench::on("tcp://127.0.0.1:502", LineSettings { ids: false, ..SETTINGS });
    let asked = bench.ask(1, 1).await;
    let mut answer = bench.answer(&asked, 11);
    answer[1] ^= 0x55;
    bench.says(&answer).await;
    bench.until_data(1, 11).await;
    let asked = bench.ask(2, 1).await;
    let mut other = bench.answer(&asked, 22);
    other[7] = 4;
    bench.says(&other).await;
    assert!(matches!(bench.line.next().await, Event::Answer { token: 2, outcome: Outcome::Trouble(Trouble::Misfit(_)) }));
    assert!(bench.line.must_reopen());
}

#[tokio::test(start_paused = true)]
async fn a_serial_line_is_drained_after_a_timeout_until_it_was_silent_for_another() {
    let mut bench = Bench::serial(SETTINGS);
    let first = bench.ask(1, 1).await;
    bench.until_timeout(1).await;
    assert!(!bench.line.must_reopen() && bench.line.ready_at().is_none());
    // The late answer is of the right unit, function and size: only its time tells that it is not the next one's.
    let late = bench.answer(&first, 11);
    let began = Instant::now();
    bench.says(&late).await;
    assert_eq!(bench.line.next().await, Event::Silent);
    assert!(began.elapsed() >= TIMEOUT);
    assert_eq!(bench.line.counters.noise_bytes, late.len() as u64);
    let second = bench.ask(2, 1).await;
    let answer = bench.answer(&second, 22);
    bench.says(&answer).await;
    bench.until_data(2, 22).await;
}

#[tokio::test(start_paused = true)]
async fn a_serial_line_that_is_never_silent_is_given_up() {
    let mut bench = Bench::serial(SETTINGS);
    bench.ask(1, 1).await;
    bench.until_timeout(1).await;
    let Bench { mut line, mut device, .. } = bench;
    let babble = tokio::spawn(async move {
        loop {
            if device.write_all(&[0x55; 8]).await.is_err() {
                return;
            }
            tokio::time::sleep(TIMEOUT / 2).await;
        }
    });
    assert_eq!(line.next().await, Event::Lost(Lost::Babble));
    babble.abort();
}

#[tokio::test(start_paused = true)]
async fn an_echo_is_stripped_though_the_answer_is_glued_to_it_and_another_units_answer_is_a_stranger() {
    let mut bench = Bench::serial(LineSettings { echo: true, ..SETTINGS });
    for round in 1..=3_u8 {
        let asked = bench.ask(round.into(), 1).await;
        let glued = [asked.clone(), bench.answer(&asked, round)].concat();
        let cut = usize::from(round) * 3;
        bench.says(&glued[..cut]).await;
        bench.says(&glued[cut..]).await;
        bench.until_data(round.into(), round).await;
    }
    let mut bench = Bench::serial(SETTINGS);
    let asked = bench.ask(1, 1).await;
    let others = bench.answer(&[9], 99);
    let own = bench.answer(&asked, 11);
    bench.says(&[others, own].concat()).await;
    bench.until_data(1, 11).await;
    assert_eq!(bench.line.counters.strangers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_has_its_moment_after_connecting_and_its_pause_after_each_answer() {
    let (delay, pause) = (Duration::from_secs(2), Duration::from_millis(300));
    let mut bench = Bench::on("tcp://127.0.0.1:502", LineSettings { connect_delay: delay, pause, ..SETTINGS });
    assert_eq!(bench.line.ready_at(), Some(Instant::now() + delay));
    tokio::time::sleep(delay).await;
    let asked = bench.ask(1, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = bench.answer(&asked, 11);
    bench.says(&answer).await;
    bench.until_data(1, 11).await;
    // It counts from the end of the answer, not from the request.
    assert_eq!(bench.line.ready_at(), Some(Instant::now() + pause));
}
