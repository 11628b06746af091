//! Feeds arbitrary packets to the uwsgi parsing that runs in the kernel.
//!
//! Beyond not panicking: it makes no difference how a packet is cut into calls, what its first bytes say agrees with what
//! the rest says, and where a reader that has the whole packet before it finds a method and a path, so do we, alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watchdog_common::cgi::WINDOW;
use watchdog_common::fastcgi::{Event, Opens};
use watchdog_common::http::method_code;
use watchdog_common::uwsgi::{Reading, opens};

fuzz_target!(|data: &[u8]| {
    let Some((control, bytes)) = data.split_first_chunk::<3>() else { return };
    let mut packet = Vec::new();
    // A packet whose first variable is known, in half of the inputs: else most would end there.
    if control[0] & 1 != 0 {
        let size = u16::try_from(bytes.len() + 16).unwrap_or(u16::MAX).to_le_bytes();
        packet.extend([0, size[0], size[1], 0]);
        packet.extend(b"\x0c\0QUERY_STRING\0\0");
    }
    packet.extend(bytes);

    let whole = told(&packet, |_| usize::MAX);
    assert_eq!(whole, told(&packet, |at| usize::from(control[at % 3]) % 64 + 1));
    let mut before = Opens::Maybe;
    for len in 0..=packet.len().min(16) {
        let now = opens(&packet, len);
        if before != Opens::Maybe {
            assert_eq!(now, before, "after {len} bytes");
        }
        before = now;
    }
    if before == Opens::Yes {
        assert_eq!(whole.0 & Event::BROKEN, 0);
    }
    if whole.0 & Event::BEGAN != 0
        && let Some((method, path)) = plain(&packet)
    {
        assert_ne!(whole.0 & Event::DECIDED, 0);
        assert_eq!((whole.1, whole.2), (method, path));
    }
});

fn told(mut bytes: &[u8], cut: impl Fn(usize) -> usize) -> (u32, u64, Vec<u8>) {
    let mut reading = Reading::default();
    let (mut events, mut calls) = (0, 0);
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(cut(calls).min(bytes.len()));
        events |= reading.receive(piece);
        bytes = rest;
        calls += 1;
    }
    let (path, len) = reading.path();
    (events, reading.method(), path[..len].to_vec())
}

/// The method and the path of a whole packet, read plainly. `None` when it is not whole, or unusual.
fn plain(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let size = usize::from(u16::from_le_bytes([*bytes.get(1)?, *bytes.get(2)?]));
    let mut rest = bytes.get(4..4 + size)?;
    let mut found = [const { None }; 5];
    while !rest.is_empty() {
        let mut next = || -> Option<&[u8]> {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (value, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = behind;
            Some(value)
        };
        let (name, value) = (next()?, next()?);
        let names: [&[u8]; 5] =
            [b"REQUEST_METHOD", b"REQUEST_URI", b"DOCUMENT_URI", b"SCRIPT_NAME", b"PATH_INFO"];
        if let Some(place) = names.iter().position(|known| *known == name)
            && !value.is_empty()
        {
            if found[place].is_some() {
                return None;
            }
            found[place] = Some(value[..value.len().min(WINDOW)].to_vec());
        }
    }
    let [method, uri, document, script, info] = found;
    let method = method.map_or(0, |method| method_code(&method));
    let path = uri.or(document).unwrap_or_else(|| [script, info].into_iter().flatten().flatten().collect());
    Some((method, path))
}
