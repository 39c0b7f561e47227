//! Changed journal files and checkpoints.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| naru_fuzz::damage_and_read(input, |path| {
    path.starts_with("journal/") || path.starts_with("checkpoint")
}));
