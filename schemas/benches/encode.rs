//! Encoding and decoding of one sample against `serde_avro_fast` and `serde_json`.

mod forms;

use criterion::{Criterion, criterion_group, criterion_main};
use forms::{Forms, Kind};

fn encode(criterion: &mut Criterion) {
    for kind in [Kind::Double, Kind::Long, Kind::Text, Kind::Doubles] {
        let mut forms = Forms::new(kind);
        for (name, ours, theirs) in Forms::PAIRS {
            let mut group = criterion.benchmark_group(format!("{name} {kind:?}"));
            group.bench_function("millrace", |bencher| bencher.iter(|| ours(&mut forms)));
            group.bench_function("serde", |bencher| bencher.iter(|| theirs(&mut forms)));
            group.finish();
        }
    }
}

criterion_group!(benches, encode);
criterion_main!(benches);
