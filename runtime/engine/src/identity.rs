//! What tells this runtime from others, and is the same again when it comes back after a kill.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// This machine since its start, and the directory of data: a copy of a machine has a boot of its own, a copy of a directory a number of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    boot: String,
    folder: (u64, u64),
}

impl Identity {
    pub fn of(data_dir: &Path) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default();
        Self { boot, folder: std::fs::metadata(data_dir).map_or((0, 0), |about| (about.dev(), about.ino())) }
    }

    /// As one text, with the machine's name.
    pub fn on(&self, host: &str) -> String {
        format!("{}:{}:{}:{host}", self.boot, self.folder.0, self.folder.1)
    }

    /// The name of a sink in its group (`group.instance.id`). Kafka takes letters, digits, `.`, `_` and `-`, 249 at most.
    pub fn member(&self, sink: &str) -> String {
        let is_taken = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let sink: String = sink.chars().take(150).map(|c| if is_taken(c) { c } else { '-' }).collect();
        let boot = self.boot.split('-').next().unwrap_or_default();
        format!("{sink}-{boot}-{:x}-{:x}", self.folder.0, self.folder.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_again_and_another_in_another_folder() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let identity = Identity::of(one.path());
        assert_eq!(identity, Identity::of(one.path()));
        assert_eq!(identity.member("lake"), Identity::of(one.path()).member("lake"));
        assert_ne!(identity.member("lake"), Identity::of(two.path()).member("lake"));
        let name = identity.member(&"wärme/ä".repeat(60));
        assert!(name.len() < 249 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{name}");
    }
}
