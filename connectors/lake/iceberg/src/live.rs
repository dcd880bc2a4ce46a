//! The data files of the newest snapshot.

use crate::snapshot::{entries, manifests};
use crate::table::Table;
use futures_util::{StreamExt, TryStreamExt};
use iceberg::spec::{Literal, ManifestFile, PrimitiveLiteral};
use millrace_kit::parts::TargetError;
use std::ops::RangeInclusive;

/// Manifests read at a time.
const AT_ONCE: usize = 8;

/// A data file of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Live {
    /// Its whole location.
    pub location: String,
    pub size: u64,
    pub rows: u64,
    /// Days since 1970.
    pub day: i32,
    pub level: Option<String>,
    /// The least and greatest values of the columns asked for, as Iceberg has single values.
    pub bounds: Vec<Option<(Vec<u8>, Vec<u8>)>>,
}

impl Table {
    /// The files of these days, with the bounds of these columns.
    ///
    /// Errors: `Refused`: rows were deleted by delete files, or files are partitioned otherwise.
    pub async fn live(&self, days: Option<RangeInclusive<i32>>, columns: &[i32]) -> Result<Vec<Live>, TargetError> {
        let manifests = manifests(&*self.files, &self.metadata).await?;
        self.has_no_deletes(&manifests)?;
        let wanted: Vec<ManifestFile> =
            manifests.into_iter().filter(|file| days.as_ref().is_none_or(|days| may_hold(file, days))).collect();
        let read = wanted.iter().map(|file| self.of_manifest(file, days.as_ref(), columns));
        futures_util::stream::iter(read).buffered(AT_ONCE).try_concat().await
    }

    async fn of_manifest(
        &self,
        file: &ManifestFile,
        days: Option<&RangeInclusive<i32>>,
        columns: &[i32],
    ) -> Result<Vec<Live>, TargetError> {
        if file.partition_spec_id != self.spec_id {
            return Err(TargetError::Refused(format!(
                "table {} has files that are partitioned otherwise ({})",
                self.name(),
                file.manifest_path
            )));
        }
        let manifest = entries(&*self.files, file).await?;
        let mut live = Vec::new();
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let data = entry.data_file();
            let [day, rest @ ..] = data.partition().fields() else { continue };
            let Some(Literal::Primitive(PrimitiveLiteral::Int(day))) = day else {
                return Err(TargetError::Refused(format!("{} is in no day", data.file_path())));
            };
            if days.is_some_and(|days| !days.contains(day)) {
                continue;
            }
            let level = match rest.first() {
                Some(Some(Literal::Primitive(PrimitiveLiteral::String(level)))) => Some(level.clone()),
                _ => None,
            };
            let bound = |id: &i32| {
                let (least, greatest) = (data.lower_bounds().get(id)?, data.upper_bounds().get(id)?);
                Some((least.to_bytes().ok()?.into_vec(), greatest.to_bytes().ok()?.into_vec()))
            };
            live.push(Live {
                location: data.file_path().to_owned(),
                size: data.file_size_in_bytes(),
                rows: data.record_count(),
                day: *day,
                level,
                bounds: columns.iter().map(bound).collect(),
            });
        }
        Ok(live)
    }
}

/// Whether files of these days may be in a manifest, as its entry in the list says.
pub(crate) fn may_hold(file: &ManifestFile, days: &RangeInclusive<i32>) -> bool {
    let Some(day) = file.partitions.as_ref().and_then(|partitions| partitions.first()) else { return true };
    let of = |bytes: &Option<iceberg::spec::ByteBuf>| Some(i32::from_le_bytes(bytes.as_ref()?.as_slice().try_into().ok()?));
    of(&day.lower_bound).is_none_or(|least| least <= *days.end()) && of(&day.upper_bound).is_none_or(|greatest| greatest >= *days.start())
}
