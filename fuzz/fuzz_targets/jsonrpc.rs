//! Fuzz target of [`standpipe_fuzz::jsonrpc`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::jsonrpc(data));
