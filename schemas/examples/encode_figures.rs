//! How long one sample takes, ours against serde's encoders, and one document, from one run: `cargo run --release -p millrace-schemas --example encode_figures`.

use std::hint::black_box;
use std::time::Instant;

#[path = "../benches/documents/mod.rs"]
mod documents;
#[path = "../benches/forms/mod.rs"]
mod forms;

use documents::Documents;
use forms::{Forms, Kind};

/// Rounds of the two sides alternate, so that a busy machine slows both; the best round counts.
const ROUNDS: usize = 60;
const SAMPLES: usize = 20_000;

fn main() {
    println!("{:<24} {:>10} {:>10} {:>7}", "ns per sample", "millrace", "serde", "ratio");
    for kind in [Kind::Double, Kind::Long, Kind::Text, Kind::Doubles] {
        let mut forms = Forms::new(kind);
        for (name, ours, theirs) in Forms::PAIRS {
            let [mut best_ours, mut best_theirs] = [f64::INFINITY; 2];
            for _ in 0..ROUNDS {
                best_ours = best_ours.min(time(&mut forms, ours));
                best_theirs = best_theirs.min(time(&mut forms, theirs));
            }
            println!("{:<24} {best_ours:>10.1} {best_theirs:>10.1} {:>7.2}", format!("{name} {kind:?}"), best_theirs / best_ours);
        }
    }
    println!("\n{:<32} {:>10} {:>10} {:>7}", "ns per document", "millrace", "other", "ratio");
    let mut documents = Documents::new();
    for (name, ours, theirs) in Documents::PAIRS {
        let [mut best_ours, mut best_theirs] = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            best_ours = best_ours.min(time(&mut documents, ours));
            best_theirs = best_theirs.min(time(&mut documents, theirs));
        }
        println!("{name:<32} {best_ours:>10.1} {best_theirs:>10.1} {:>7.2}", best_theirs / best_ours);
    }
}

fn time<T>(of: &mut T, run: fn(&mut T)) -> f64 {
    let start = Instant::now();
    for _ in 0..SAMPLES {
        run(black_box(of));
    }
    start.elapsed().as_secs_f64() * 1e9 / SAMPLES as f64
}
