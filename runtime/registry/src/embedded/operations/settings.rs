//! The level of compatibility and the mode, of all subjects or of one.

use crate::embedded::level::Level;
use crate::embedded::operations::{Fault, writable};
use crate::embedded::record::{ConfigValue, Mode, Record};
use crate::embedded::registry::Registry;

impl Registry {
    pub(in crate::embedded) fn config(&self, subject: Option<&str>, or_global: bool) -> Result<ConfigValue, Fault> {
        self.is_ready()?;
        let state = self.state.read();
        let found = state.config(subject).or_else(|| state.config(None).filter(|_| or_global));
        found.ok_or_else(|| {
            let subject = subject.unwrap_or_default();
            Fault::new(40408, format!("Subject '{subject}' does not have subject-level compatibility configured"))
        })
    }

    pub(in crate::embedded) async fn set_config(
        &self,
        subject: Option<&str>,
        level: Option<&str>,
        normalize: Option<bool>,
    ) -> Result<(), Fault> {
        self.is_ready()?;
        let level = match level {
            None if normalize.is_some() => None,
            level => Some(level.and_then(Level::named).ok_or_else(|| {
                Fault::new(
                    42203,
                    "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive",
                )
            })?),
        };
        let _turn = self.turn.lock().await;
        let mut value = {
            let state = self.state.read();
            writable(
                subject.map_or_else(|| state.mode(None).unwrap_or(Mode::ReadWrite), |subject| state.mode_for(subject)),
                subject.unwrap_or("."),
            )?;
            state.config(subject).unwrap_or_default()
        };
        value.subject = subject.map(str::to_owned);
        value.level = level.map(|level| level.to_string()).or(value.level);
        value.normalize = normalize.or(value.normalize);
        self.write(Record::Config { subject: subject.map(str::to_owned), value: Some(value) }).await.map_err(Fault::store)
    }

    /// Takes a configuration back; what it was.
    pub(in crate::embedded) async fn delete_config(&self, subject: Option<&str>) -> Result<ConfigValue, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let before = self.state.read().config(subject).ok_or_else(|| Fault::no_subject(subject.unwrap_or_default()))?;
        self.write(Record::Config { subject: subject.map(str::to_owned), value: None }).await.map_err(Fault::store)?;
        Ok(before)
    }

    pub(in crate::embedded) fn mode(&self, subject: Option<&str>, or_global: bool) -> Result<Mode, Fault> {
        self.is_ready()?;
        let state = self.state.read();
        let found = state.mode(subject).or_else(|| state.mode(None).filter(|_| or_global));
        found.ok_or_else(|| {
            Fault::new(40409, format!("Subject '{}' does not have subject-level mode configured", subject.unwrap_or_default()))
        })
    }

    pub(in crate::embedded) async fn set_mode(&self, subject: Option<&str>, name: Option<&str>, force: bool) -> Result<Mode, Fault> {
        self.is_ready()?;
        let mode = name.and_then(Mode::named).ok_or_else(|| {
            Fault::new(42204, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT, and FORWARD")
        })?;
        let _turn = self.turn.lock().await;
        if mode == Mode::Import && !force {
            let state = self.state.read();
            let exists = match subject {
                Some(subject) => !state.versions(subject, false).is_empty(),
                None => state.subjects.values().flat_map(|versions| versions.values()).any(|value| !value.deleted),
            };
            if exists {
                return Err(Fault::new(42205, "Cannot import since found existing subjects"));
            }
        }
        self.write(Record::Mode { subject: subject.map(str::to_owned), mode: Some(mode) }).await.map_err(Fault::store)?;
        Ok(mode)
    }

    pub(in crate::embedded) async fn delete_mode(&self, subject: Option<&str>) -> Result<Mode, Fault> {
        self.is_ready()?;
        let _turn = self.turn.lock().await;
        let before = self.state.read().mode(subject).ok_or_else(|| Fault::no_subject(subject.unwrap_or_default()))?;
        self.write(Record::Mode { subject: subject.map(str::to_owned), mode: None }).await.map_err(Fault::store)?;
        Ok(before)
    }
}
