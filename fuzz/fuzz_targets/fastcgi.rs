//! Feeds arbitrary records to the FastCGI parsing that runs in the kernel.
//!
//! Beyond not panicking: it makes no difference how the streams are cut into calls, and where a reader that has the whole
//! request before it finds a method and a path, so do we, alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watchdog_common::cgi::WINDOW;
use watchdog_common::fastcgi::{Conversation, Event, Opens, opens};
use watchdog_common::http::method_code;

fuzz_target!(|data: &[u8]| {
    let Some((control, bytes)) = data.split_first_chunk::<4>() else { return };
    first_bytes(bytes);
    let cut = |at: usize| usize::from(control[at % 3]) % 64 + 1;
    let (received, sent) = bytes.split_at(bytes.len().min(usize::from(control[3]) * 4));
    // A request that begins, in half of the inputs: else most would end at their first byte.
    let mut stream = Vec::new();
    if control[0] & 1 != 0 {
        stream.extend(b"\x01\x01\0\x01\0\x08\0\0\0\x01\x01\0\0\0\0\0");
    }
    stream.extend(received);

    let whole = told(&stream, sent, |_| usize::MAX);
    let pieces = told(&stream, sent, cut);
    // What follows lost boundaries is given up up to the end of a call.
    if (whole.0 | pieces.0) & Event::BROKEN == 0 {
        assert_eq!(whole, pieces);
        if let Some((method, path)) = plain(&stream) {
            assert_eq!((whole.1, &whole.2), (method, &path));
        }
    }
});

fn first_bytes(bytes: &[u8]) {
    let mut before = Opens::Maybe;
    for len in 0..=bytes.len().min(16) {
        let now = opens(bytes, len);
        if before != Opens::Maybe {
            assert_eq!(now, before, "after {len} bytes");
        }
        before = now;
    }
}

type Told = (u32, u64, Vec<u8>, u32, Option<u16>);

fn told(received: &[u8], sent: &[u8], cut: impl Fn(usize) -> usize) -> Told {
    let mut talk = Conversation::default();
    let (mut events, mut bits) = (0, 0);
    for piece in pieces(received, &cut) {
        events |= talk.receive(piece);
    }
    let (path, len) = talk.path();
    let method = talk.method();
    for piece in pieces(sent, &cut) {
        bits |= talk.send(piece);
    }
    (events, method, path[..len].to_vec(), bits, talk.status())
}

fn pieces<'a>(mut bytes: &'a [u8], cut: impl Fn(usize) -> usize) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(cut(all.len()).min(bytes.len()));
        all.push(piece);
        bytes = rest;
    }
    all
}

/// The first request's method and path, read plainly from a stream that holds all of its variables. `None` when it does
/// not, or when it is unusual.
fn plain(mut bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (mut id, mut params) = (None, Vec::new());
    loop {
        let header = bytes.get(..8)?;
        let content = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let body = bytes.get(8..8 + content)?;
        bytes = bytes.get(8 + content + usize::from(header[6])..)?;
        match (header[1], id) {
            (1, None) => id = Some([header[2], header[3]]),
            (1, Some(_)) => return None,
            (4, Some(id)) if [header[2], header[3]] == id && content == 0 => break,
            (4, Some(id)) if [header[2], header[3]] == id => params.extend(body),
            (5, Some(id)) if [header[2], header[3]] == id => break,
            _ => {}
        }
    }
    let (mut rest, mut found) = (params.as_slice(), [const { None }; 5]);
    while !rest.is_empty() {
        let mut lengths = [0; 2];
        for length in &mut lengths {
            let wide = rest.first()? & 0x80 != 0;
            let (told, behind) = rest.split_at_checked(if wide { 4 } else { 1 })?;
            *length = told.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) & 0x7fff_ffff;
            rest = behind;
        }
        let (name, behind) = rest.split_at_checked(lengths[0])?;
        let (value, behind) = behind.split_at_checked(lengths[1])?;
        rest = behind;
        let names: [&[u8]; 5] =
            [b"REQUEST_METHOD", b"REQUEST_URI", b"DOCUMENT_URI", b"SCRIPT_NAME", b"PATH_INFO"];
        if let Some(place) = names.iter().position(|known| *known == name)
            && !value.is_empty()
        {
            // Of variables that are told twice, front ends know nothing.
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
