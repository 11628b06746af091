#![allow(clippy::unwrap_used, reason = "these are tests")]

use proptest::prelude::*;

use super::*;

fn known(fields: &Fields) -> (&[u8], u64) {
    match &fields.path {
        Path::Known(path) => (path, fields.method.unwrap_or(0)),
        other => panic!("{other:?}"),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// RFC 7541, C.3 and C.4.
#[test]
fn the_examples_of_the_standard_are_read() {
    for requests in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        let read = requests.map(|request| decoder.decode(&bytes(request)).unwrap());
        let get = method_code(b"GET");
        assert_eq!(read.each_ref().map(known), [(&b"/"[..], get), (b"/", get), (b"/index.html", get)]);
        assert_eq!(decoder.entries.len(), 3);
    }
}

#[test]
fn what_was_not_seen_is_unknown_and_what_comes_after_it_is_not() {
    let mut decoder = Decoder::default();
    // POST, and a path of entry 62.
    assert_eq!(decoder.decode(&[0x83, 0xbe]).unwrap().path, Path::Unknown);
    // A literal path with indexing, then by its index, also behind another entry.
    assert_eq!(known(&decoder.decode(b"\x83\x44\x06/login").unwrap()).0, b"/login");
    assert_eq!(known(&decoder.decode(&[0x83, 0xbe]).unwrap()).0, b"/login");
    decoder.decode(b"\x83\x04\x01/\x40\x01a\x01b").unwrap();
    assert_eq!(known(&decoder.decode(&[0x83, 0xbf]).unwrap()).0, b"/login");
    // The name of the entry before that is unknown, so it may have been the path.
    assert_eq!(decoder.decode(b"\x83\x7f\x01\x01x").unwrap().path, Path::Unknown);
    decoder.forget();
    assert_eq!(decoder.decode(&[0x83, 0xbf]).unwrap().path, Path::Unknown);
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    decoder.decode(b"\x44\x06/login").unwrap();
    let mut large = b"\x40\x01a\x7f\x81\x1f".to_vec();
    large.extend([b'b'; 0x7f + 1 + 0xf80]);
    decoder.decode(&large).unwrap();
    assert_eq!(decoder.entries.len(), 0);
    // A table of no bytes: nothing is kept in it.
    decoder.decode(b"\x20\x44\x06/login").unwrap();
    assert_eq!(decoder.entries.len(), 0);
}

#[test]
fn what_is_malformed_is_refused_and_forgotten() {
    for block in [
        &[0x80][..],
        &[0x40, 0x85, 1],
        &[0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x44, 0x84, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut decoder = Decoder::default();
        decoder.decode(b"\x44\x06/login").unwrap();
        assert_eq!(decoder.decode(block), Err(Malformed), "{block:?}");
        assert_eq!(decoder.entries.len(), 0);
    }
}

#[test]
fn memory_is_bounded() {
    let mut decoder = Decoder::default();
    decoder.decode(&[0x3f, 0xe1, 0xff, 0x03]).unwrap();
    for n in 0..5000 {
        let path = format!("/{n:0>200}");
        let mut block = b"\x44\x7f\x4a".to_vec();
        block.extend(path.as_bytes());
        assert_eq!(known(&decoder.decode(&block).unwrap()).0, path.as_bytes());
        decoder.decode(b"\x40\x01a\x01b").unwrap();
    }
    assert!(decoder.weight() < 64 * 1024, "{}", decoder.weight());
    assert_eq!(decoder.path_bytes, decoder.entries.iter().map(path_bytes).sum::<usize>());
}

proptest! {
    /// Another implementation encodes; it keeps a table as ours must.
    #[test]
    fn requests_of_another_encoder_are_read(
        requests in prop::collection::vec(
            (0..3usize, "/[a-z]{0,12}", prop::collection::vec(("[a-z]{1,8}", "[ -~]{0,60}"), 0..8)),
            1..60,
        )
    ) {
        let mut encoder = loona_hpack::Encoder::new();
        let mut decoder = Decoder::default();
        for (method, path, others) in requests {
            let method: &[u8] = [&b"GET"[..], b"POST", b"PROPFIND"][method];
            let mut fields: Vec<(&[u8], &[u8])> = vec![(b":method", method), (b":path", path.as_bytes())];
            fields.extend(others.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            let block = encoder.encode(fields);
            let read = decoder.decode(&block).unwrap();
            prop_assert_eq!(known(&read), (path.as_bytes(), method_code(method)));
        }
    }

    #[test]
    fn compressed_paths_are_read(path in "/[ -~]{0,120}") {
        let mut packed = Vec::new();
        httlib_huffman::encode(path.as_bytes(), &mut packed).unwrap();
        let mut block = vec![0x82, 0x44];
        if packed.len() < 127 {
            block.push(0x80 | u8::try_from(packed.len()).unwrap());
        } else {
            block.extend([0xff, u8::try_from(packed.len() - 127).unwrap()]);
        }
        block.extend(packed);
        let mut decoder = Decoder::default();
        for block in [&block[..], &[0x82, 0xbe]] {
            let read = decoder.decode(block).unwrap();
            prop_assert_eq!(known(&read).0, path.as_bytes());
        }
    }
}
