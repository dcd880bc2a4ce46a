//! A file of the table, as Parquet's reader wants it; what is read is counted.

use crate::store::Store;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A data file that a table names.
#[derive(Clone, Debug)]
pub struct LiveFile {
    pub path: Path,
    /// For messages.
    pub name: String,
    pub size: u64,
    pub rows: u64,
    /// Days since 1970.
    pub day: i32,
    pub level: Option<Arc<str>>,
}

pub struct Object {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// Bytes read, of all that share it.
    bytes: Arc<AtomicU64>,
}

impl Object {
    pub fn new(store: &Store, file: &LiveFile, bytes: Arc<AtomicU64>) -> Self {
        Self { objects: store.objects.clone(), path: file.path.clone(), size: file.size, bytes }
    }
}

fn failed(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Object {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.bytes.fetch_add(range.end - range.start, Relaxed);
        async move { self.objects.get_range(&self.path, range).await.map_err(failed) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.bytes.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Relaxed);
        async move { self.objects.get_ranges(&self.path, &ranges).await.map_err(failed) }.boxed()
    }

    fn get_metadata<'a>(&'a mut self, options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(32 << 10));
            Ok(Arc::new(reader.load_and_finish(&mut *self, size).await?))
        }
        .boxed()
    }
}
