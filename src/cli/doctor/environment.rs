//! The system around a data directory: who may use it, what it lies on, whether there is room, what time it is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::{Check, Status};
use crate::cli::output::{bytes_text, duration_text};
use crate::cli::record_time;
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::model::{Timestamp, shell_path};
use crate::rt::{Clock as _, SystemClock};

/// File systems that Naru is made for.
const MADE_FOR: [&str; 2] = ["ext4", "xfs"];
/// Those that do not keep data, or mean something else by a lock or a sync.
const NOT_FOR_DATA: [(&str, &str); 9] = [
    ("tmpfs", "it is memory, and gone after a restart of the machine"),
    ("ramfs", "it is memory, and gone after a restart of the machine"),
    (
        "overlay",
        "it is a layer of a container, and goes with it: use a volume",
    ),
    ("nfs", "locks and syncs may mean something else over a network"),
    ("nfs4", "locks and syncs may mean something else over a network"),
    ("cifs", "locks and syncs may mean something else over a network"),
    ("9p", "locks and syncs may mean something else over a network"),
    ("vfat", "it has no permissions, and loses files when power does"),
    ("fuseblk", "what a sync means there is up to its program"),
];
/// Less room than this is little: a journal file of the default size does not fit.
const SPACE_LITTLE: u64 = 256 << 20;
/// With less than this a start cannot write its checkpoint and its journal file.
const SPACE_NONE: u64 = 32 << 20;
/// 2026-01-01: a clock before that was never set.
const FIRST_TIME: Timestamp = Timestamp(1_767_225_600_000);
/// Clocks of two lives need not agree to the second.
const CLOCK_BEHIND_MS: i64 = 2_000;

/// What does not depend on the data.
pub(super) fn checks(dir: &Path) -> Vec<Check> {
    vec![permissions(dir), file_system(dir)]
}

fn permissions(dir: &Path) -> Check {
    let name = "permissions";
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(e) => return Check::new(name, Status::Error, format!("they cannot be read: {e}")),
    };
    let (mode, owner) = (found.permissions().mode() & 0o777, found.uid());
    let me = rustix::process::geteuid().as_raw();
    let whose = format!("mode {mode:03o}, owner {owner}");
    let owned = |path: &Path| fs::metadata(path).map_or(owner, |found| found.uid());
    let other = ["FORMAT", "journal", "topics", "checkpoint.0", "checkpoint.1"].into_iter();
    let other = other
        .map(|file| (file, owned(&dir.join(file))))
        .find(|(_, uid)| *uid != owner);
    if let Some((file, uid)) = other {
        let what = format!("{whose}, but {file} belongs to {uid}");
        return Check::new(name, Status::Error, what).todo(format!("chown -R {owner} {}", shell_path(dir)));
    }
    if mode & 0o700 != 0o700 {
        let what = format!("{whose}: the owner may not read and write it");
        return Check::new(name, Status::Error, what).todo(format!("chmod 700 {}", shell_path(dir)));
    }
    if mode & 0o077 != 0 {
        let what = format!("{whose}: other users may look into it");
        return Check::new(name, Status::Warning, what).todo(format!("chmod 700 {}", shell_path(dir)));
    }
    if me != owner && me != 0 {
        let what = format!("{whose}; you are {me}");
        return Check::new(name, Status::Warning, what).todo("run the broker as the owner of the directory");
    }
    Check::new(name, Status::Ok, whose)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    at: String,
    options: String,
    kind: String,
    device: String,
    super_options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let (mut front, mut back) = (front.split(' ').skip(4), back.split(' '));
        Some(Self {
            // Spaces in the path are written as \040.
            at: front.next()?.replace("\\040", " "),
            options: front.next()?.to_owned(),
            kind: back.next()?.to_owned(),
            device: back.next()?.to_owned(),
            super_options: back.next().unwrap_or_default().to_owned(),
        })
    }

    fn has(&self, option: &str) -> bool {
        let all = self.options.split(',').chain(self.super_options.split(','));
        all.into_iter().any(|o| o == option)
    }
}

/// The mount that a path lies on: the longest that it begins with, and of those the one that was made last.
fn mount_of(table: &str, path: &Path) -> Option<Mount> {
    let mounts = table.lines().filter_map(Mount::parse);
    let around = mounts.filter(|mount| path.starts_with(&mount.at));
    around
        .enumerate()
        .max_by_key(|(index, mount)| (mount.at.len(), *index))
        .map(|(_, mount)| mount)
}

fn file_system(dir: &Path) -> Check {
    let name = "file system";
    let mount = dir.canonicalize().ok().and_then(|dir| {
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mount_of(&table, &dir)
    });
    match mount {
        Some(mount) => judge(name, &mount),
        None => Check::new(name, Status::Skipped, "the system does not say which it is"),
    }
}

fn judge(name: &'static str, mount: &Mount) -> Check {
    let what = format!("{} on {}, mounted at {}", mount.kind, mount.device, mount.at);
    let bad = NOT_FOR_DATA.iter().find(|(kind, _)| *kind == mount.kind);
    if let Some((_, why)) = bad {
        return Check::new(name, Status::Warning, format!("{what}: {why}"))
            .todo("move the directory to a local file system, ext4 or XFS");
    }
    if mount.has("ro") {
        return Check::new(
            name,
            Status::Warning,
            format!("{what}, read-only: no broker can run here"),
        )
        .todo("look into the kernel's log (dmesg) for why it is, before it is mounted for writing again");
    }
    if mount.has("nobarrier") || mount.has("barrier=0") {
        return Check::new(
            name,
            Status::Warning,
            format!("{what}, without barriers: power loss may lose what was acknowledged"),
        )
        .todo("mount it with barriers");
    }
    if !MADE_FOR.contains(&mount.kind.as_str()) {
        return Check::new(
            name,
            Status::Warning,
            format!("{what}: nobody has tested Naru on it"),
        )
        .todo("ext4 and XFS are what it is made for");
    }
    Check::new(name, Status::Ok, what)
}

/// Room on the disk; `reserve` is how much the broker has set aside.
pub(super) fn space(disk: &RealDisk, reserve: Option<u64>) -> Check {
    let name = "space";
    match disk.free_bytes() {
        Ok(free) => judge_space(name, free, reserve),
        Err(e) => Check::new(
            name,
            Status::Skipped,
            format!("the system does not say how much is free: {e}"),
        ),
    }
}

fn judge_space(name: &'static str, free: u64, reserve: Option<u64>) -> Check {
    let aside = match reserve {
        Some(bytes) => format!("{} set aside in reserve", bytes_text(bytes)),
        None => "nothing set aside".to_owned(),
    };
    let what = format!("{} free, {aside}", bytes_text(free));
    let all = free.saturating_add(reserve.unwrap_or(0));
    if all < SPACE_NONE {
        return Check::new(name, Status::Error, format!("{what}: a start waits for room"))
            .todo("make room on the disk; never remove files of the data directory, except in salvage/");
    }
    if free < SPACE_LITTLE {
        return Check::new(
            name,
            Status::Warning,
            format!("{what}: produce will be refused soon"),
        )
        .todo("make room, or keep less: `naru topic trim`, `naru topic config set TOPIC retention.ms=...`");
    }
    Check::new(name, Status::Ok, what)
}

/// Whether the clock can be right; `written` is when the broker wrote last.
pub(super) fn clock(written: Option<Timestamp>) -> Check {
    judge_clock("clock", SystemClock::new().wall(), written)
}

fn judge_clock(name: &'static str, now: Timestamp, written: Option<Timestamp>) -> Check {
    let what = record_time::text(now);
    let todo = "set the clock (NTP) before the broker is started: retention by age believes it";
    if now < FIRST_TIME {
        return Check::new(name, Status::Warning, format!("{what}: it was never set")).todo(todo);
    }
    let Some(written) = written.filter(|written| written.0 > 0) else {
        return Check::new(name, Status::Ok, what);
    };
    let ahead = now.0.saturating_sub(written.0);
    let apart = duration_text(std::time::Duration::from_millis(ahead.unsigned_abs()));
    if ahead < -CLOCK_BEHIND_MS {
        let what = format!("{what}, {apart} before the last write: it went back, or was wrong then");
        return Check::new(name, Status::Warning, what).todo(todo);
    }
    Check::new(name, Status::Ok, format!("{what}, {apart} after the last write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/x
31 22 8:1 / /var/lib rw,relatime shared:1 - ext4 /dev/sda1 rw
32 31 8:2 / /var/lib/naru\\040two rw,noatime - xfs /dev/sdb rw
33 22 0:5 / /old ro - ext4 /dev/sdc rw
34 22 0:6 / /fast rw - ext4 /dev/sdd rw,nobarrier
35 22 0:7 / /odd rw - btrfs /dev/sde rw";

    fn judged(path: &str) -> (String, Status, String) {
        let mount = mount_of(TABLE, Path::new(path)).unwrap();
        let check = judge("file system", &mount);
        (mount.kind, check.status, check.what)
    }

    #[test]
    fn the_mount_of_a_path_is_the_longest_around_it() {
        for (path, kind, status, word) in [
            ("/var/lib/naru", "ext4", Status::Ok, "/dev/sda1"),
            ("/var/lib/naru two/x", "xfs", Status::Ok, "/dev/sdb"),
            ("/home", "overlay", Status::Warning, "layer of a container"),
            ("/old/x", "ext4", Status::Warning, "read-only"),
            ("/fast", "ext4", Status::Warning, "without barriers"),
            ("/odd", "btrfs", Status::Warning, "nobody has tested"),
        ] {
            let (found, is, what) = judged(path);
            assert_eq!((found.as_str(), is), (kind, status), "{path}");
            assert!(what.contains(word), "{what}");
        }
    }

    #[test]
    fn room_is_enough_or_little_or_none() {
        let status = |free, reserve| judge_space("space", free, reserve).status;
        assert_eq!(status(1 << 40, Some(64 << 20)), Status::Ok);
        assert_eq!(status(100 << 20, None), Status::Warning);
        assert_eq!(status(0, Some(64 << 20)), Status::Warning);
        assert_eq!(status(1 << 20, None), Status::Error);
    }

    #[test]
    fn a_clock_that_went_back_is_seen() {
        let day = 86_400_000;
        let at = |ms| {
            judge_clock(
                "clock",
                Timestamp(FIRST_TIME.0 + day),
                Some(Timestamp(FIRST_TIME.0 + ms)),
            )
        };
        assert_eq!(at(0).status, Status::Ok);
        assert!(at(0).what.contains("1d after"), "{:?}", at(0));
        assert_eq!(at(day + 1_000).status, Status::Ok);
        assert_eq!(at(2 * day).status, Status::Warning);
        assert_eq!(judge_clock("clock", Timestamp(5), None).status, Status::Warning);
    }
}
