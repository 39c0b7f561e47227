//! What a broker on this machine has used, as Linux tells of its process.

use std::time::Duration;

use serde_json::json;

use crate::cli::failure::Failure;

/// `/proc/PID/stat` counts in hundredths of a second, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);

/// Processor time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// In user and system mode since it started.
    cpu: Duration,
    resident_kib: u64,
}

impl Used {
    /// What it has used by now; without a process id nothing is known.
    ///
    /// # Errors
    /// There is no such process on this machine.
    pub(super) fn of(pid: Option<u32>) -> Result<Option<Self>, Failure> {
        pid.map(Self::read).transpose()
    }

    fn read(pid: u32) -> Result<Self, Failure> {
        let file = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path)
                .map_err(|error| Failure::usage(format!("--pid {pid}: {path}: {error}")))
        };
        Self::parse(&file("stat")?, &file("status")?)
            .ok_or_else(|| Failure::unexpected(format!("/proc/{pid} does not say what is used")))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The name of the command is in brackets and may have anything in it.
        let (_, behind) = stat.rsplit_once(')')?;
        let mut fields = behind.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let (user, system) = (ticks()?, ticks()?);
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(Self {
            cpu: TICK.saturating_mul(user.saturating_add(system)),
            resident_kib: resident.split_whitespace().next()?.parse().ok()?,
        })
    }

    /// What was used from one moment to a later one.
    pub(super) fn between(before: Option<Self>, after: Option<Self>) -> Option<Span> {
        let (before, after) = (before?, after?);
        Some(Span {
            cpu: after.cpu.saturating_sub(before.cpu),
            resident_kib: [before.resident_kib, after.resident_kib],
        })
    }
}

/// What a broker used meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    cpu: Duration,
    /// Before and after.
    resident_kib: [u64; 2],
}

impl Span {
    pub(super) fn to_json(self, took: Duration) -> serde_json::Value {
        let [before, after] = self.resident_kib;
        json!({
            "cpu_ms": u64::try_from(self.cpu.as_millis()).unwrap_or(u64::MAX), "cpu_percent": self.percent(took),
            "rss_kib_before": before, "rss_kib_after": after,
        })
    }

    pub(super) fn text(self, took: Duration) -> String {
        let [before, after] = self.resident_kib;
        format!(
            "{:?} of CPU, {} % of one core; resident {before} KiB before, {after} KiB after",
            self.cpu,
            self.percent(took)
        )
    }

    /// Of one core, with one decimal.
    fn percent(self, took: Duration) -> f64 {
        (self.cpu.as_secs_f64() / took.as_secs_f64().max(1e-9) * 1_000.0).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_passed_over() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 21 13 0 0 20 0";
        let used = Used::parse(stat, "Name:\tx\nVmRSS:\t   1234 kB\n").unwrap();
        assert_eq!((used.cpu, used.resident_kib), (Duration::from_millis(340), 1_234));
        assert_eq!(Used::parse(stat, "Name:\tx\n"), None);
        assert_eq!(Used::parse("7 (a) S 1", "VmRSS: 1 kB"), None);
    }

    #[test]
    fn a_span_is_told_in_shares_of_a_core() {
        let used = |ms, resident_kib| {
            Some(Used {
                cpu: Duration::from_millis(ms),
                resident_kib,
            })
        };
        let span = Used::between(used(100, 5), used(350, 9)).unwrap();
        let json = span.to_json(Duration::from_secs(2));
        assert_eq!(
            json.to_string(),
            r#"{"cpu_ms":250,"cpu_percent":12.5,"rss_kib_after":9,"rss_kib_before":5}"#
        );
        assert!(span.text(Duration::from_secs(1)).contains("25 % of one core"));
        assert_eq!(Used::between(None, used(1, 1)), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_is_an_error() {
        let used = Used::of(Some(std::process::id())).unwrap().unwrap();
        assert!(used.resident_kib > 0);
        assert_eq!(Used::of(None).unwrap(), None);
        assert!(Used::of(Some(u32::MAX)).is_err());
    }
}
