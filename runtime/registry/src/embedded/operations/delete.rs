//! Versions and subjects go, first softly, then for good.

use crate::embedded::operations::{Fault, Wanted, writable};
use crate::embedded::record::{Record, SchemaValue};
use crate::embedded::registry::Registry;
use crate::schema::SchemaId;

impl Registry {
    pub(in crate::embedded) fn forget_id(&self, id: SchemaId) {
        self.parsed.lock().remove(&id);
        let mut identities = self.identities.lock();
        if let Some(identity) = identities.of.remove(&id) {
            identities.by.remove(&identity);
        }
    }

    pub(in crate::embedded) async fn delete_version(&self, subject: &str, wanted: Wanted, permanent: bool) -> Result<i32, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let value = {
            let state = self.state.read();
            writable(state.mode_for(subject), subject)?;
            if state.versions(subject, true).is_empty() {
                return Err(Fault::no_subject(subject));
            }
            let found = match wanted {
                Wanted::Latest if permanent => state.versions(subject, true).pop(),
                wanted => state.version(subject, wanted.number()),
            };
            found.cloned().ok_or_else(|| match wanted {
                Wanted::Latest => Fault::no_subject(subject),
                Wanted::Number(number) => Fault::no_version(number),
            })?
        };
        let version = value.version;
        match (value.deleted, permanent) {
            (true, false) => {
                let words = format!("Subject '{subject}' Version {version} was soft deleted.Set permanent=true to delete permanently");
                return Err(Fault::new(40406, words));
            }
            (false, true) => {
                let words = format!("Subject '{subject}' Version {version} was not deleted first before being permanently deleted");
                return Err(Fault::new(40407, words));
            }
            _ => {}
        }
        self.unreferenced(subject, version)?;
        if permanent {
            self.remember_last_id().await?;
        }
        let id = value.id;
        let value = (!permanent).then(|| SchemaValue { deleted: true, ..value });
        self.write(Record::Schema { subject: subject.to_owned(), version, value }).await.map_err(Fault::store)?;
        if permanent && self.state.read().schema(id).is_none() {
            self.forget_id(id);
        }
        Ok(version)
    }

    /// Before something goes for good: its id may be the highest, and must not be given out again.
    pub(in crate::embedded) async fn remember_last_id(&self) -> Result<(), Fault> {
        let last = self.state.read().last_id;
        self.write(Record::LastId(last)).await.map_err(Fault::store)
    }

    pub(in crate::embedded) fn unreferenced(&self, subject: &str, version: i32) -> Result<(), Fault> {
        if self.state.read().referring(subject, version).is_empty() {
            return Ok(());
        }
        let key = format!("{{magic=1,keytype=SCHEMA,subject={subject},version={version}}}");
        Err(Fault::new(42206, format!("One or more references exist to the schema {key}.")))
    }

    pub(in crate::embedded) async fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<i32>, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let versions: Vec<SchemaValue> = {
            let state = self.state.read();
            writable(state.mode_for(subject), subject)?;
            state.versions(subject, true).into_iter().cloned().collect()
        };
        let live: Vec<i32> = versions.iter().filter(|value| !value.deleted).map(|value| value.version).collect();
        let Some(last) = versions.last().map(|value| value.version) else { return Err(Fault::no_subject(subject)) };
        if permanent {
            if !live.is_empty() {
                let words = format!("Subject '{subject}' was not deleted first before being permanently deleted");
                return Err(Fault::new(40405, words));
            }
            for value in &versions {
                self.unreferenced(subject, value.version)?;
            }
            self.remember_last_id().await?;
            for value in &versions {
                let record = Record::Schema { subject: subject.to_owned(), version: value.version, value: None };
                self.write(record).await.map_err(Fault::store)?;
                if self.state.read().schema(value.id).is_none() {
                    self.forget_id(value.id);
                }
            }
            self.forget_settings(subject).await?;
            return Ok(versions.iter().map(|value| value.version).collect());
        }
        if live.is_empty() {
            let words = format!("Subject '{subject}' was soft deleted.Set permanent=true to delete permanently");
            return Err(Fault::new(40404, words));
        }
        for version in &live {
            self.unreferenced(subject, *version)?;
        }
        // Its level and mode stay: what is only hidden must not come back with other rules. (Confluent's forgets them here.)
        let record = Record::DeleteSubject { subject: subject.to_owned(), version: Some(last) };
        self.write(record).await.map_err(Fault::store)?;
        Ok(live)
    }

    /// Takes a subject's level and mode back, where it has some of its own.
    pub(in crate::embedded) async fn forget_settings(&self, subject: &str) -> Result<(), Fault> {
        let name = || subject.to_owned();
        let (has_config, has_mode) = {
            let state = self.state.read();
            (state.config(Some(subject)).is_some(), state.mode(Some(subject)).is_some())
        };
        if has_config {
            self.write(Record::Config { subject: Some(name()), value: None }).await.map_err(Fault::store)?;
        }
        if has_mode {
            self.write(Record::Mode { subject: Some(name()), mode: None }).await.map_err(Fault::store)?;
        }
        Ok(())
    }
}
