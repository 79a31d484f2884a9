#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate::fuzzing::ndjson_select(data));
