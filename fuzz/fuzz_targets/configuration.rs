#![no_main]
#![allow(missing_docs)]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/it/fuzzed.rs"]
#[allow(dead_code, reason = "each target is one of them")]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzed::configuration(input));
