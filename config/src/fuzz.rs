//! The entry for fuzzing, and for replaying its corpus: arbitrary bytes as a factory's file, and as its table.

use crate::factory::environment::{Given, Load};
use crate::factory::load::load;
use crate::tree::problem::Problems;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Must not panic, hang, or grow beyond bounds, whatever the bytes are; and what loads must load again as it was printed.
pub fn fuzz_config(bytes: &[u8]) {
    let how = |bytes: &[u8]| Load {
        read_secrets: true,
        env: BTreeMap::from([("NAME".to_owned(), "value".to_owned()), ("SECRET".to_owned(), "correct horse".to_owned())]),
        files: Arc::new(Given(BTreeMap::from([
            (PathBuf::from("factory.yaml"), bytes.to_vec()),
            (PathBuf::from("table.csv"), bytes.to_vec()),
        ]))),
    };
    let paths = [PathBuf::from("factory.yaml")];
    let mut problems = Problems::new();
    let factory = load(&paths, &how(bytes), &mut problems);
    let _ = (problems.render(), problems.to_json());
    if let Some(factory) = factory.filter(|_| !problems.has_errors()) {
        let printed = crate::expanded(&factory);
        assert!(!printed.contains("correct horse"), "a secret is printed:\n{printed}");
        let mut problems = Problems::new();
        let again = load(&paths, &how(printed.as_bytes()), &mut problems).expect("what is printed is YAML");
        assert!(!problems.has_errors(), "{printed}\n{}", problems.render());
        assert!(again.sources == factory.sources && again.sinks == factory.sinks, "{printed}");
    }
}
