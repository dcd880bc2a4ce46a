//! A warm batch is filled without a single allocation. Alone in its binary: it counts the process's.

use millrace_generator::shape::{Recipe, Shape};
use millrace_schemas::{Batch, Micros, TagId};
use millrace_testkit::memory;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

#[test]
fn filling_a_warm_batch_allocates_nothing() {
    let shapes = vec![Shape::Sine, Shape::Counter, Shape::Random, Shape::Square, Shape::Text, Shape::Bool, Shape::Array];
    let tags = 70;
    let recipe = Recipe { seed: 1, tags, shapes, rounds_per_period: 100.0, bad: 0.01, nan: 0.01, out_of_window: 0.01, duplicates: 0.01 };
    let ids: Vec<_> = (0..tags).map(TagId).collect();
    let mut batch = Batch::new();
    let mut fill = |from: u64| {
        batch.clear();
        for number in from..from + 100_000 {
            recipe.sample(number, Micros(1), &ids, &mut batch);
        }
        batch.len()
    };
    // Texts grow by a digit, so the first fill is of the largest numbers.
    fill(1_000_000_000);
    let before = memory::allocations();
    let rows = fill(0);
    assert_eq!(memory::allocations() - before, 0);
    assert!(rows >= 100_000);
}
