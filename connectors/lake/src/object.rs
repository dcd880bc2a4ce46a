//! A file of the table, as Parquet's reader wants it; what is read is counted, also what lies between two pages that one request fetches.

use crate::store::Store;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, coalesce_ranges};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
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

/// What lies so close together is one request to a store afar; a disk is asked for each page.
const CLOSE: u64 = 256 << 10;

pub struct Object {
    objects: Arc<dyn ObjectStore>,
    is_local: bool,
    path: Path,
    size: u64,
    /// Bytes read, of all that share it.
    bytes: Arc<AtomicU64>,
}

impl Object {
    pub fn new(store: &Store, file: &LiveFile, bytes: Arc<AtomicU64>) -> Self {
        Self { objects: store.objects.clone(), is_local: store.is_local(), path: file.path.clone(), size: file.size, bytes }
    }

    /// Reads the footer, and the page index of those row groups that are wanted: they are the builder's only ones. `None`: none is.
    pub async fn open(mut self, is_wanted: impl Fn(&RowGroupMetaData) -> bool) -> Result<Option<ParquetRecordBatchStreamBuilder<Self>>> {
        let footer = AsyncFileReader::get_metadata(&mut self, None).await?;
        let groups: Vec<RowGroupMetaData> = footer.row_groups().iter().filter(|group| is_wanted(group)).cloned().collect();
        if groups.is_empty() {
            return Ok(None);
        }
        // The two halves of the index lie apart, with those of other row groups in between.
        let (skip, optional) = (PageIndexPolicy::Skip, PageIndexPolicy::Optional);
        let mut metadata = ParquetMetaData::new(footer.file_metadata().clone(), groups);
        for (columns, offsets) in [(optional, skip), (skip, optional)] {
            let reader = ParquetMetaDataReader::new_with_metadata(metadata);
            let mut reader = reader.with_column_index_policy(columns).with_offset_index_policy(offsets);
            reader.load_page_index(&mut self).await?;
            metadata = reader.finish()?;
        }
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options)?;
        Ok(Some(ParquetRecordBatchStreamBuilder::new_with_metadata(self, metadata)))
    }
}

/// How much of a file's end is read at first: its footer grows with it.
fn hint(size: u64) -> usize {
    (size >> 10).clamp(32 << 10, 512 << 10) as usize
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
        if self.is_local {
            self.bytes.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Relaxed);
            return async move { self.objects.get_ranges(&self.path, &ranges).await.map_err(failed) }.boxed();
        }
        let fetch = |range: Range<u64>| {
            self.bytes.fetch_add(range.end - range.start, Relaxed);
            self.objects.get_range(&self.path, range)
        };
        async move { coalesce_ranges(&ranges, fetch, CLOSE).await.map_err(failed) }.boxed()
    }

    fn get_metadata<'a>(&'a mut self, options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(hint(size)));
            Ok(Arc::new(reader.load_and_finish(&mut *self, size).await?))
        }
        .boxed()
    }
}
