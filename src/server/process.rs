//! What the system says about this process, under the names that every Prometheus client uses; and how many files it may
//! open.

use std::fs;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::telemetry::{Kind, Page};

/// Numbers from `/proc/self`; what cannot be read is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ProcessNow {
    cpu_seconds: Option<f64>,
    threads: Option<u64>,
    virtual_bytes: Option<u64>,
    resident_bytes: Option<u64>,
}

/// Segments open for writing at least, and at most.
const SEGMENT_FILES: std::ops::RangeInclusive<usize> = 32..=2_048;

/// Lets this process open as many files as it may: the usual soft limit of 1,024 is there for programs that use `select`.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Segments that may be open for writing, and as many for reading: three descriptors for each pair, of the four tenths that
/// connections leave.
pub(super) fn segment_files() -> usize {
    segment_files_of(getrlimit(Resource::Nofile).current)
}

fn segment_files_of(descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |limit| limit / 10);
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(*SEGMENT_FILES.start(), *SEGMENT_FILES.end())
}

/// Adds the process to a page.
pub(super) fn collect(page: &mut Page) {
    let now = fs::read_to_string("/proc/self/stat").map(|stat| parse_stat(&stat, ticks(), page_bytes()));
    let now = now.unwrap_or_default();
    if let Some(seconds) = now.cpu_seconds {
        page.family(
            Kind::Counter,
            "process_cpu_seconds",
            "User and system CPU time, in seconds.",
        )
        .real([], seconds);
    }
    let gauges = [
        ("process_threads", "Threads of the process.", now.threads),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size.",
            now.virtual_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size.",
            now.resident_bytes,
        ),
        ("process_open_fds", "Open file descriptors.", open_fds()),
        (
            "process_max_fds",
            "Most open file descriptors.",
            getrlimit(Resource::Nofile).current,
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.one(Kind::Gauge, name, help, value);
        }
    }
}

fn open_fds() -> Option<u64> {
    // One of them is the directory itself while it is read.
    fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| (entries.count() as u64).saturating_sub(1))
}

fn ticks() -> u64 {
    rustix::param::clock_ticks_per_second()
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Fields as in proc(5). The name of the process, in parentheses, may hold anything, so counting begins behind it.
fn parse_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> ProcessNow {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return ProcessNow::default();
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first field behind the name is the third of the line.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let cpu_ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
    ProcessNow {
        cpu_seconds: cpu_ticks.map(|ticks| seconds(ticks, ticks_per_second)),
        threads: field(20),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page_bytes),
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 ticks are three million years")]
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_system_is_understood_whatever_the_process_is_called() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 7 0 123 9000000 300 18446744073709551615";
        let now = parse_stat(stat, 100, 4096);
        assert_eq!(
            now,
            ProcessNow {
                cpu_seconds: Some(3.0),
                threads: Some(7),
                virtual_bytes: Some(9_000_000),
                resident_bytes: Some(300 * 4096),
            }
        );
        assert_eq!(parse_stat("nonsense", 100, 4096), ProcessNow::default());
    }

    #[test]
    fn segments_take_at_most_three_tenths_of_the_descriptors() {
        assert_eq!(segment_files_of(Some(1_024)), 102);
        assert_eq!(segment_files_of(Some(1_000_000)), 2_048);
        assert_eq!(segment_files_of(None), 2_048);
        assert_eq!(segment_files_of(Some(20)), 32);
    }

    #[test]
    fn this_process_has_all_numbers() {
        let mut page = Page::default();
        collect(&mut page);
        let text = page.text();
        for name in [
            "process_cpu_seconds_total",
            "process_threads",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(
                text.contains(&format!("\n{name} ")),
                "{name} is missing in\n{text}"
            );
        }
    }
}
