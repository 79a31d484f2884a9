#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate_fuzz::within(headgate::fuzzing::MOST, || {
    headgate::fuzzing::raw_lines(data)
}));
