//! Times of segments: what is known of them, and that it survives.

use super::*;

fn segments(rig: &Rig, key: PartitionKey) -> Vec<crate::storage::SegmentSummary> {
    rig.store.open(key, CONFIG).segments()
}

#[test]
fn segments_know_their_append_times_and_keep_them_over_every_restart() {
    let mut rig = Rig::new(&small());
    let mut appended = Vec::new();
    for fill in 0..40 {
        appended.push(rig.clock.wall());
        rig.produce(key(1, 0), 2, 500, fill);
        rig.clock.advance(Duration::from_millis(250));
        if fill == 0 {
            assert_eq!(segments(&rig, key(1, 0)), [], "nothing is applied yet");
        }
    }
    rig.inline.apply().unwrap();
    let live = segments(&rig, key(1, 0));
    assert!(live.len() > 2, "{live:?}");
    for (at, segment) in live.iter().enumerate() {
        // Two records per batch.
        let first = usize::try_from(segment.base.get() / 2).unwrap();
        let behind = usize::try_from(segment.end.get() / 2).unwrap();
        assert_eq!(segment.oldest_append, appended[first]);
        assert_eq!(segment.newest_append, appended[behind - 1]);
        assert_eq!(segment.max_timestamp, Timestamp(1_700_000_000_000));
        assert_eq!(segment.sealed, at + 1 < live.len());
        assert!(segment.bytes > 0);
    }
    let total: u64 = live.iter().map(|s| s.bytes).sum();
    assert_eq!(total, rig.store.open(key(1, 0), CONFIG).stats().size_bytes);

    let replayed = Rig::open(&rig.disk.after_kill(), &small()).unwrap();
    assert_eq!(segments(&replayed, key(1, 0)), live, "from the journal");
    replayed.inline.stop().unwrap();
    let read = Rig::open(&replayed.disk.after_kill(), &small()).unwrap();
    assert_eq!(segments(&read, key(1, 0)), live, "from the checkpoint");
}
