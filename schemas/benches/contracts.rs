//! Checking and converting one document against those who do it with a tree or a type in between.

mod documents;

use criterion::{Criterion, criterion_group, criterion_main};
use documents::Documents;

fn contracts(criterion: &mut Criterion) {
    let mut documents = Documents::new();
    for (name, ours, theirs) in Documents::PAIRS {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("millrace", |bencher| bencher.iter(|| ours(&mut documents)));
        group.bench_function("other", |bencher| bencher.iter(|| theirs(&mut documents)));
        group.finish();
    }
}

criterion_group!(benches, contracts);
criterion_main!(benches);
