//! Two samples and a time out of a small payload, against serde_json's tree and pointers.

use criterion::{Criterion, criterion_group, criterion_main};
use millrace_kit::extract::{Extracted, Extraction, Pointer};
use millrace_kit::time::Clock;
use millrace_schemas::Batch;
use std::hint::black_box;

const PAYLOAD: &[u8] = br#"{"ts":1763726880123,"v":{"kmh":88.5},"battery":{"soc":71.25}}"#;

fn extract(criterion: &mut Criterion) {
    let [speed, soc, ts] = ["/v/kmh", "/battery/soc", "/ts"].map(|text| Pointer::parse(text).expect("a pointer"));
    let extraction = Extraction::new([(&speed, None), (&soc, None)], Some((ts, Clock::default()).into()), None);
    let (mut batch, mut into) = (Batch::new(), Extracted::default());
    let mut group = criterion.benchmark_group("60 bytes, two samples, time");
    group.bench_function("extract", |bencher| {
        bencher.iter(|| {
            batch.clear();
            extraction.read(black_box(PAYLOAD), &mut batch, &mut into).expect("the payload is JSON");
            into.iter().for_each(|found| _ = black_box(found));
        });
    });
    group.bench_function("serde_json tree", |bencher| {
        bencher.iter(|| {
            let tree: serde_json::Value = serde_json::from_slice(black_box(PAYLOAD)).expect("the payload is JSON");
            for pointer in ["/v/kmh", "/battery/soc", "/ts"] {
                black_box(tree.pointer(pointer).and_then(serde_json::Value::as_f64));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, extract);
criterion_main!(benches);
