//! A disk that is soon full: a tmpfs of its own where the tests may mount one; else the real one, of which nearly all is to be kept free.

use crate::scratch;
use std::path::Path;
use std::process::Command;

/// Of a mounted one, what is to be kept free.
const KEPT: u64 = 4 << 20;

pub struct SmallDisk {
    folder: tempfile::TempDir,
    is_mounted: bool,
    keep_free: u64,
}

impl SmallDisk {
    /// A disk on which a runtime told to [`SmallDisk::keep_free`] may use so many bytes.
    pub fn of(usable: u64) -> Self {
        let folder = scratch("disk");
        let size = format!("size={}", usable + KEPT);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "millrace-tests"]).arg(folder.path()).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        let keep_free = if is_mounted {
            KEPT
        } else {
            println!("no right to mount a tmpfs: the disk is made small by keep_free");
            let stat = rustix::fs::statvfs(folder.path()).expect("the file system can be asked");
            (stat.f_bavail * stat.f_frsize).saturating_sub(usable)
        };
        Self { folder, is_mounted, keep_free }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `log.keep_free` of a factory whose `data_dir` is here.
    pub fn keep_free(&self) -> u64 {
        self.keep_free
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(self.path()).output();
        }
    }
}
