use super::*;

fn of(head: &str) -> u16 {
    let mut memory = [0; MEMORY];
    let len = head.len().min(WINDOW);
    memory[..len].copy_from_slice(&head.as_bytes()[..len]);
    status(&memory, len)
}

#[test]
fn the_status_of_a_cgi_response_may_stand_anywhere_in_its_head() {
    assert_eq!(of("Status: 404 Not Found\r\nContent-type: text/html\r\n\r\n"), 404);
    assert_eq!(of("Content-type: text/html\r\nSTATUS:503 x\r\n\r\n"), 503);
    assert_eq!(of("A: b\nC: d\nEfg: h\nstatus: 500\n\n"), 500);
    assert_eq!(of("Content-type: text/html\r\n\r\nStatus: 404\r\n"), 200);
    assert_eq!(of("Content-type: text/html\n\nStatus: 404\r\n"), 200);
    assert_eq!(of("Location: /login\r\n\r\n"), 302);
    assert_eq!(of("Location: /login\r\nStatus: 303 See Other\r\n\r\n"), 303);
    assert_eq!(of("Status-Line: 404\r\nX-Status: 500\r\nSet-Cookie: a\r\n\r\n"), 200);
    assert_eq!(of("Status: 999\r\n\r\n"), 200);
    assert_eq!(of("Status: 40"), 200);
    assert_eq!(of("\r\nStatus: 404\r\n"), 200);
    assert_eq!(of(""), 200);
}

/// The line's place among the steps must not matter.
#[test]
fn the_status_is_found_at_every_offset() {
    // An empty first line would end the head.
    for before in (0..=WINDOW - 4).filter(|before| *before != 1) {
        let mut head = [b'x'; WINDOW + 32];
        if before > 0 {
            head[before - 1] = b'\n';
        }
        head[before..before + 13].copy_from_slice(b"Status: 401\r\n");
        let head = core::str::from_utf8(&head).expect("text");
        let expected = if before + 11 <= WINDOW { 401 } else { 200 };
        assert_eq!(of(head), expected, "at {before}");
    }
}
