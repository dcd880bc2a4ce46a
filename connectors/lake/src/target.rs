//! A table of either kind, for who writes and for who reads: Delta, whose log says what lies in it, or Iceberg, whose catalog does.

use crate::config::{Place, Shape, TableFormat};
use crate::encode::Form;
#[cfg(feature = "iceberg")]
use crate::iceberg::IcebergTable;
use crate::object::LiveFile;
use crate::store::Store;
use crate::table::{Table, kernel};
use delta_kernel::expressions::{Expression, Predicate, Scalar, column_expr};
use millrace_kit::parts::TargetError;
use std::ops::Range;
use std::sync::Arc;

const DAY: i64 = 86_400_000_000;
/// Writers may cut the least and greatest times in the log to this.
const MILLI: i64 = 1_000;

/// An open table.
pub enum Target {
    Delta(Box<Table>),
    #[cfg(feature = "iceberg")]
    Iceberg(Box<IcebergTable>),
}

/// Which files are wanted: those that may hold samples of a range, of a tag.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'w> {
    pub range: Option<Range<i64>>,
    pub tag: Option<&'w str>,
}

impl Target {
    /// Opens a table; makes it where it is missing and `makes` says so. Blocks: call it on a thread that may.
    ///
    /// Errors: see [`Table::open`].
    pub fn open(place: &Place, makes: bool, runtime: tokio::runtime::Handle) -> Result<Self, TargetError> {
        if place.format == TableFormat::Iceberg {
            return Self::open_iceberg(place, makes, runtime);
        }
        Table::open(place, makes, runtime).map(Box::new).map(Self::Delta)
    }

    #[cfg(feature = "iceberg")]
    fn open_iceberg(place: &Place, makes: bool, runtime: tokio::runtime::Handle) -> Result<Self, TargetError> {
        IcebergTable::open(place, makes, runtime).map(Box::new).map(Self::Iceberg)
    }

    #[cfg(not(feature = "iceberg"))]
    fn open_iceberg(place: &Place, _makes: bool, _runtime: tokio::runtime::Handle) -> Result<Self, TargetError> {
        Err(TargetError::Refused(format!(
            "this build can't open the Iceberg table {}; build it with the feature `lake-iceberg`: cargo build --release -p millrace --features lake-iceberg",
            place.table
        )))
    }

    /// As for a sink, of a table that was opened to be read: afterwards it knows its shape and its columns.
    pub fn prepare(&mut self) -> Result<(), TargetError> {
        match self {
            Self::Delta(table) => table.prepare(),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(_) => Ok(()),
        }
    }

    pub fn store(&self) -> &Store {
        match self {
            Self::Delta(table) => &table.store,
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => &table.store,
        }
    }

    pub fn runtime(&self) -> &tokio::runtime::Handle {
        match self {
            Self::Delta(table) => table.runtime(),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => table.runtime(),
        }
    }

    /// What it holds, once it was prepared.
    pub fn shape(&self) -> &Shape {
        match self {
            Self::Delta(table) => table.shape(),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => table.shape(),
        }
    }

    /// What its files are made of, once it was prepared.
    pub fn form(&self) -> Result<Arc<Form>, TargetError> {
        match self {
            Self::Delta(table) => table.form(),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => Ok(table.form().clone()),
        }
    }

    /// The positions of these names.
    pub fn positions<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<Vec<Option<i64>>, TargetError> {
        match self {
            Self::Delta(table) => table.positions(ids),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => Ok(table.positions(ids)),
        }
    }

    /// The newest version or snapshot, and when it was committed, in microseconds since 1970.
    pub fn committed(&self) -> Result<(u64, i64), TargetError> {
        match self {
            Self::Delta(table) => {
                let at = table.snapshot.get_timestamp(&*table.engine);
                let at = at.map_err(|error| kernel("cannot read the time of the last commit", &error))?;
                Ok((table.snapshot.version(), at.saturating_mul(1000)))
            }
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => Ok(table.committed()),
        }
    }

    /// The files that may hold what is wanted.
    ///
    /// Errors: rows were deleted otherwise than by rewriting their file; the table can't be read.
    pub fn live(&self, wanted: &Wanted<'_>) -> Result<Vec<LiveFile>, TargetError> {
        match self {
            Self::Delta(table) => live_of_delta(table, wanted),
            #[cfg(feature = "iceberg")]
            Self::Iceberg(table) => live_of_iceberg(table, wanted),
        }
    }
}

fn days(range: &Range<i64>) -> std::ops::RangeInclusive<i32> {
    let day = |time: i64| time.div_euclid(DAY).clamp(-719_162, 2_932_896) as i32;
    day(range.start)..=day(range.end)
}

fn live_of_delta(table: &Table, wanted: &Wanted<'_>) -> Result<Vec<LiveFile>, TargetError> {
    let mut all = Vec::new();
    if let Some(range) = &wanted.range {
        let days = days(range);
        let day = |day: i32| Expression::literal(Scalar::Date(day));
        all.push(column_expr!("date").ge(day(*days.start())));
        all.push(column_expr!("date").le(day(*days.end())));
        all.push(column_expr!("time").ge(Expression::literal(Scalar::Timestamp(range.start.saturating_sub(MILLI)))));
        all.push(column_expr!("time").lt(Expression::literal(Scalar::Timestamp(range.end.saturating_add(MILLI)))));
    }
    if let Some(tag) = wanted.tag {
        all.push(column_expr!("tag").eq(Expression::literal(Scalar::String(tag.to_owned()))));
    }
    let predicate = (!all.is_empty()).then(|| Arc::new(Predicate::and_from(all)));
    let mut live = Vec::new();
    for file in table.files(predicate)? {
        if file.dv_info.has_vector() {
            return Err(TargetError::Refused(format!(
                "{} has rows deleted by a deletion vector, which only its own tool can read; rewrite the file there",
                file.path
            )));
        }
        let values: Vec<(String, String)> = file.partition_values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let folder = table.folder_of(&values)?;
        let rows = file.stats.as_ref().map_or(0, |stats| stats.num_records);
        let path = table.store.path(&file.path)?;
        live.push(LiveFile { path, name: file.path, size: file.size.unsigned_abs(), rows, day: folder.day, level: folder.level });
    }
    Ok(live)
}

#[cfg(feature = "iceberg")]
fn live_of_iceberg(table: &IcebergTable, wanted: &Wanted<'_>) -> Result<Vec<LiveFile>, TargetError> {
    let time = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).ok();
    let fits = |file: &millrace_lake_iceberg::Live| {
        let [tags, times] = &file.bounds[..] else { return true };
        let tag = wanted
            .tag
            .is_none_or(|tag| tags.as_ref().is_none_or(|(least, greatest)| **least <= *tag.as_bytes() && *tag.as_bytes() <= **greatest));
        let range = wanted.range.as_ref().zip(times.as_ref()).is_none_or(|(range, (least, greatest))| {
            time(least).is_none_or(|least| least < range.end) && time(greatest).is_none_or(|greatest| greatest >= range.start)
        });
        tag && range
    };
    let files = table.live(wanted.range.as_ref().map(days), &["tag", "time"])?;
    let live = files.into_iter().filter(fits).map(|file| {
        let path = table.store.located(&file.location)?;
        let level = file.level.as_deref().map(Arc::from);
        Ok(LiveFile { path, name: file.location, size: file.size, rows: file.rows, day: file.day, level })
    });
    live.collect()
}
