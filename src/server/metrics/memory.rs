//! Metrics of records that are in memory alone.

use crate::model::MemoryHealth;
use crate::telemetry::{Kind, Page};

/// What is in memory alone, and whether that is everything.
pub(super) fn show(page: &mut Page, is_everything: bool, memory: Option<&MemoryHealth>) {
    page.one(
        Kind::Gauge,
        "naru_in_memory",
        "1 if this broker keeps everything in memory, so that nothing survives its end, else 0.",
        is_everything.into(),
    );
    let Some(memory) = memory else { return };
    for (kind, name, help, value) in [
        (
            Kind::Gauge,
            "naru_memory_held_bytes",
            "Memory taken by records that are in memory alone.",
            memory.held_bytes,
        ),
        (
            Kind::Gauge,
            "naru_memory_limit_bytes",
            "Most memory that they may take.",
            memory.bytes_max,
        ),
        (
            Kind::Counter,
            "naru_memory_dropped_records",
            "Records in memory that went because there was no room for them any more.",
            memory.dropped_records,
        ),
        (
            Kind::Counter,
            "naru_memory_dropped_bytes",
            "Bytes of their batches.",
            memory.dropped_bytes,
        ),
    ] {
        page.one(kind, name, help, value);
    }
}
