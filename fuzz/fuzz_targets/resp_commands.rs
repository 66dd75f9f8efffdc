//! Fuzz target of [`standpipe_fuzz::resp_commands`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::resp_commands(data));
