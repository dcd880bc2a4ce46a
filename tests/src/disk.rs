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

    /// A tmpfs of its own, with more options for mount (`,nr_inodes=4`); `None`, and a line about it, where the tests may not mount one.
    pub fn mounted(usable: u64, options: &str) -> Option<Self> {
        let folder = scratch("disk");
        let all = format!("size={}{options}", usable + KEPT);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &all, "millrace-tests"]).arg(folder.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            println!("no right to mount a tmpfs: not tested here");
            return None;
        }
        Some(Self { folder, is_mounted: true, keep_free: KEPT })
    }

    /// Changes the options of a mounted one: `ro`, `rw`, `rw,nr_inodes=1000`.
    pub fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).output().expect("mount starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
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
