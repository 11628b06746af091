//! Feeds arbitrary bytes to the HTTP/1 parsing that runs in the kernel, and holds it against `httparse`.
//!
//! Beyond not panicking: a head that arrives in pieces ends in the same request as a whole one, and where httparse
//! reads a request or a status, so do we, alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watchdog_common::abi::{HEAD_WINDOW, MAX_WILDCARD_MASKS};
use watchdog_common::http::{
    Framing, Head, MAX_METHOD_BYTES, RESPONSE_WINDOW, ends_path, framing, method_code, path_hash, request,
    response_bytes, status,
};

const KEY: u64 = 0x1234_5678_9abc_def1;
/// None, the first segment, the second, both.
const MASKS: [u32; MAX_WILDCARD_MASKS] = [0, 0b1, 0b10, 0b11];

fuzz_target!(|data: &[u8]| {
    requests(data);
    responses(data);
});

/// The first bytes as the kernel keeps them, judged.
fn judge(data: &[u8]) -> Head {
    let mut head = [0u8; 2 * HEAD_WINDOW];
    let len = data.len().min(HEAD_WINDOW);
    head[..len].copy_from_slice(&data[..len]);
    request(&head, len, &MASKS, KEY)
}

fn requests(data: &[u8]) {
    let whole = judge(data);
    let mut decided = None;
    for len in 0..=data.len().min(HEAD_WINDOW) {
        let head = judge(&data[..len]);
        match decided {
            None if head != Head::Partial => decided = Some(head),
            // More bytes never change what was decided.
            Some(before) => assert_eq!(head, before, "after {len} bytes"),
            None => {}
        }
    }
    assert_eq!(decided.unwrap_or(Head::Partial), whole);

    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    if !matches!(parsed.parse(data), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return };
    let usual = (3..=MAX_METHOD_BYTES).contains(&method.len())
        && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
        && target.starts_with('/')
        // Empty lines before the request line are allowed, but no client sends them.
        && data.starts_with(method.as_bytes())
        && data.get(method.len()) == Some(&b' ')
        && data.get(method.len() + 1) == Some(&b'/');
    if !usual {
        return;
    }
    let Head::Request(line) = whole else { panic!("httparse reads {method} {target}, we read {whole:?}") };
    assert_eq!(line.method, method_code(method.as_bytes()));
    let path = target.as_bytes();
    let path = &path[..path.iter().position(|&byte| ends_path(byte)).unwrap_or(path.len())];
    if method.len() + 1 + path.len() < HEAD_WINDOW {
        for (mask, hash) in MASKS.into_iter().zip(line.path.expect("the path ends within the window")) {
            assert_eq!(hash, path_hash(path, mask, KEY), "{target} under mask {mask:#b}");
        }
    } else {
        assert_eq!(line.path, None);
    }
}

fn responses(data: &[u8]) {
    let mut window = [0; 2 * RESPONSE_WINDOW];
    let len = data.len().min(RESPONSE_WINDOW);
    window[..len].copy_from_slice(&data[..len]);
    let start: &[u8; 16] = window[..16].try_into().expect("its first bytes");

    let code = status(start);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let complete = matches!(parsed.parse(data), Ok(httparse::Status::Complete(_)));
    if complete && data.starts_with(b"HTTP/1.") && parsed.code.is_some_and(|code| (100..600).contains(&code))
    {
        assert_eq!(code, parsed.code, "{:?}", String::from_utf8_lossy(data));
    }
    if let Framing::LengthAt(at) = framing(&window, len) {
        assert!(at < len, "the value begins at {at} of {len} bytes");
        let _ = response_bytes(&window, at);
    }
}
