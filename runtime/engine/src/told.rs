//! What a person tells a running engine: that a connector runs, rests, is stopped, or begins anew.

use crate::engine::{Engine, OWN};
use crate::hold::{Order, Role, Wanted};
use millrace_config::Reason;

impl Engine {
    /// Lets a connector run, rest or stop, now and after a restart of the program. False: there is none of that name.
    ///
    /// Errors: it can't be kept on the disk; then nothing changed.
    pub async fn want(&self, role: Role, name: &str, wanted: Wanted) -> Result<bool, Reason> {
        // A reload puts others in their place meanwhile.
        let _one = self.changing.lock().await;
        self.tell(role, name, |order| order.wanted = wanted, Some(wanted))
    }

    /// Ends the session of a connector; the next one begins at once. One that is paused or stopped stays so. False: there is none of that name.
    pub async fn restart(&self, role: Role, name: &str) -> bool {
        let _one = self.changing.lock().await;
        self.tell(role, name, |order| order.restarts += 1, None).unwrap_or(false)
    }

    fn tell(&self, role: Role, name: &str, change: impl Fn(&mut Order), keep: Option<Wanted>) -> Result<bool, Reason> {
        let keep = || keep.map_or(Ok(()), |wanted| self.ground.held.set(role, name, wanted));
        match role {
            Role::Source if name == OWN => return Ok(false),
            Role::Source => {
                let sources = self.sources.read();
                let Some(source) = sources.iter().find(|source| source.name == name) else { return Ok(false) };
                keep()?;
                source.tell(&change);
            }
            Role::Sink => {
                let sinks = self.sinks.read();
                let Some(sink) = sinks.iter().find(|sink| sink.name == name) else { return Ok(false) };
                keep()?;
                sink.task.tell(change);
            }
        }
        tracing::info!(name, wanted = ?self.ground.held.wanted(role, name), "told by a person");
        Ok(true)
    }

    /// What is wanted of a connector.
    pub fn wanted(&self, role: Role, name: &str) -> Wanted {
        self.ground.held.wanted(role, name)
    }
}
