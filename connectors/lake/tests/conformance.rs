//! The lake against the suite of every sink, as a Delta table and as plain Parquet, on a local disk.
#![cfg(feature = "tables")]

use arrow_array::cast::AsArray;
use async_trait::async_trait;
use millrace_contract::{Carries, Compiled, Context};
use millrace_lake::table::Table;
use millrace_lake::{LakeSink, Place};
use millrace_testkit::conformance::SinkFixture;
use millrace_testkit::conformance::sink::{TOPIC, numbered};
use millrace_testkit::yaml;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

millrace_testkit::sink_conforms!(a_delta_table, Lake::new("delta"));
millrace_testkit::sink_conforms!(plain_parquet, Lake::new("parquet"));

/// A folder that holds the table.
struct Lake {
    folder: TempDir,
    format: &'static str,
}

impl Lake {
    fn new(format: &'static str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), format }
    }

    fn table(&self) -> PathBuf {
        self.folder.path().join("table")
    }
}

/// All data files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !entry.file_name().to_string_lossy().starts_with('_') {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found
}

/// Partition, number and identity of each row.
fn rows(file: &Path) -> Vec<(i32, i64)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let texts = batch.column_by_name("value_text").unwrap().as_string::<i32>();
        rows.extend(texts.iter().map(|text| numbered(text.unwrap()).unwrap()));
    }
    rows
}

#[async_trait]
impl SinkFixture for Lake {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{table: \"{}\", format: {}}}", self.table().display(), self.format);
        let context = Context { carries: Carries::Samples, ..yaml::context("lake", &[TOPIC]) };
        yaml::compile::<LakeSink>(&text, &context).unwrap()
    }

    fn untouched(&self) -> bool {
        !self.table().exists()
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        let folder = self.table();
        let found = if self.format == "parquet" {
            files(&folder)
        } else {
            let runtime = tokio::runtime::Handle::current();
            let named = tokio::task::spawn_blocking(move || {
                let table = Table::open(&Place::bare(&folder.display().to_string()), false, runtime).unwrap();
                table.files(None).unwrap().into_iter().map(|file| folder.join(file.path)).collect::<Vec<_>>()
            });
            named.await.unwrap()
        };
        let mut all: Vec<_> = found.iter().flat_map(|file| rows(file)).collect();
        // Rows are sorted within a file, and files are of one day: a table has no other order.
        all.sort_unstable();
        all
    }

    async fn break_target(&mut self) -> bool {
        fs::rename(self.table(), self.folder.path().join("away")).unwrap();
        fs::write(self.table(), "no folder").unwrap();
        true
    }

    async fn mend(&mut self) {
        fs::remove_file(self.table()).unwrap();
        fs::rename(self.folder.path().join("away"), self.table()).unwrap();
    }
}
