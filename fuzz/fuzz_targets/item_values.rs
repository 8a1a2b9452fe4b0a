#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| flip_fuzz::item_values(data));
