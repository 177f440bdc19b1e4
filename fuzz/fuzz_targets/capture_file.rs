#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mirror_tests::properties::capture_file(bytes));
