//! Attacks on a real runtime: its files, its listeners, what it talks to, what it runs on. Whatever comes, it goes on, says so, and stays small.
//!
//! Short by default. `ATTACK_SECONDS=3600` goes on for an hour with each attack, `ATTACK_SEED=N` begins at a seed that was printed.

mod clocks;
mod files;
mod frames;
mod ground;
mod wires;

use millrace_tests::*;
use std::time::{Duration, Instant};

/// How long one attack goes on, unless `ATTACK_SECONDS` says more.
const SHORT: Duration = Duration::from_secs(10);
/// What a runtime may take above its idle memory, whatever is done to it.
const ROOM_KIB: u64 = 128 << 10;

/// Chance with a seed that is printed, and the time there is for it.
struct Campaign {
    rng: fastrand::Rng,
    seed: u64,
    end: Instant,
}

impl Campaign {
    fn begin(name: &str) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let seed = number("ATTACK_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
        let lasts = number("ATTACK_SECONDS").map_or(SHORT, Duration::from_secs);
        println!("{name}: ATTACK_SEED={seed} ATTACK_SECONDS={}", lasts.as_secs());
        Self { rng: fastrand::Rng::with_seed(seed), seed, end: Instant::now() + lasts }
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }
}

/// The runtime's memory now, from which its peak is counted anew.
fn idle_kib(millrace: &mut Millrace) -> u64 {
    let process = millrace.process();
    let _ = std::fs::write(format!("/proc/{}/clear_refs", process.pid()), "5");
    process.memory_kib("VmRSS")
}

/// The peak since `idle` was taken stays in bounds, and nothing panicked.
fn is_unharmed(millrace: &mut Millrace, idle: u64) {
    let peak = millrace.process().memory_kib("VmHWM");
    println!("resident memory: {} MiB idle, {} MiB at its peak", idle >> 10, peak >> 10);
    assert!(peak < idle + ROOM_KIB, "from {idle} KiB to {peak} KiB");
    never_panicked(millrace);
    assert!(millrace.process().is_running());
    assert!(matches!(http::get(millrace.http_port(), "/health/live"), Ok((200, _))), "the console answers");
}

fn never_panicked(millrace: &Millrace) {
    let log = millrace.log();
    assert!(!log.contains("panicked at"), "{}", log.lines().filter(|line| line.contains("panicked")).collect::<Vec<_>>().join("\n"));
}
