//! A data file and a snapshot, before the catalog knows them.

use serde_json::Value;

/// A data file that was put.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Its whole location.
    pub location: String,
    pub rows: u64,
    pub size: u64,
    /// Days since 1970.
    pub day: i32,
    pub level: Option<String>,
    pub columns: Vec<Metrics>,
    /// Where its row groups begin.
    pub groups: Vec<i64>,
}

/// What is known of one column of a file.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub id: i32,
    pub bytes: u64,
    pub values: u64,
    pub nulls: Option<u64>,
    /// The least and the greatest value, as Iceberg has single values: numbers in little endian, texts in UTF-8.
    pub bounds: Option<(Vec<u8>, Vec<u8>)>,
}

/// A snapshot whose files are written, before the catalog knows it.
pub struct Attempt {
    pub id: i64,
    /// Its own files, which go where it does not come to pass.
    pub made: Vec<String>,
    pub snapshot: Value,
}
