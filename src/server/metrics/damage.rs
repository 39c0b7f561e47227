//! What reading has found damaged, and how far the scrub is.

use super::{LocalNow, seconds_since_1970};
use crate::storage::local::ScrubNow;
use crate::telemetry::{Kind, Page};

/// Damage found by reading, and the scrub.
pub(super) fn show(page: &mut Page, local: &LocalNow) {
    page.one(
        Kind::Counter,
        "naru_crc_errors",
        "Damaged ranges of offsets found by reading.",
        local.crc_errors,
    );
    let errors = page.family(
        Kind::Counter,
        "naru_read_errors",
        "Reads of segments that failed.",
    );
    errors.whole([("outcome", "healed".into())], local.read_errors.healed);
    errors.whole([("outcome", "lost".into())], local.read_errors.lasting);
    scrub(page, &local.scrub);
}

fn scrub(page: &mut Page, now: &ScrubNow) {
    for (name, help, value) in [
        (
            "naru_scrub_bytes",
            "Bytes of segments read by the scrub.",
            now.bytes,
        ),
        (
            "naru_scrub_damaged_ranges",
            "Damaged ranges of offsets found by the scrub.",
            now.damaged,
        ),
        (
            "naru_scrub_index_errors",
            "Entries of indexes that do not hold or do not fit their batches.",
            now.index_errors,
        ),
        (
            "naru_scrub_passes",
            "Passes of the scrub over all segments that came to an end.",
            now.passes,
        ),
    ] {
        page.one(Kind::Counter, name, help, value);
    }
    let last = page.family(
        Kind::Gauge,
        "naru_scrub_last_pass_timestamp_seconds",
        "When the scrub came to an end of all segments the last time, in seconds since 1970.",
    );
    if let Some(at) = now.last_pass {
        last.real([], seconds_since_1970(at));
    }
}
