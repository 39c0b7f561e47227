//! Changed segments and indexes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| naru_fuzz::damage_and_read(input, |path| path.starts_with("topics/")));
