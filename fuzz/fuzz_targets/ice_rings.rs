#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillwire_fuzz::feed(env!("CARGO_BIN_NAME"), bytes));
