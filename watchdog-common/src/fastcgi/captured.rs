//! Streams as real servers read and wrote them (seen with `strace -xx`).

/// nginx 1.22 to php-fpm 8.2: what each read of the worker returned, up to and behind its response.
pub(super) const LOGIN_READS: &[&[u8]] = &[
    b"\x01\x01\0\x01\0\x08\0\0",
    b"\0\x01\0\0\0\0\0\0",
    b"\x01\x04\0\x01\x02]\x03\0",
    b"\x0c\x03QUERY_STRINGx=1\x0e\x04REQUEST_METHODPOST\x0c!CONTENT_TYPEapplication/x-www-\
      form-urlencoded\x0e\x02CONTENT_LENGTH11\x0b\x06SCRIPT_NAME/login\x0b\nREQUEST_URI/lo\
      gin?x=1\x0c\x06DOCUMENT_URI/login\r\x15DOCUMENT_ROOT/usr/share/nginx/html\x0f\x08SER\
      VER_PROTOCOLHTTP/1.1\x0e\x04REQUEST_SCHEMEhttp\x11\x07GATEWAY_INTERFACECGI/1.1\x0f\
      \x0cSERVER_SOFTWAREnginx/1.22.1\x0b\tREMOTE_ADDR127.0.0.1\x0b\x05REMOTE_PORT57690\
      \x0b\0REMOTE_USER\x0b\tSERVER_ADDR127.0.0.1\x0b\x05SERVER_PORT18571\x0b\0SERVER_NAME\
      \x0f\x03REDIRECT_STATUS200\t\tHTTP_HOST127.0.0.1\x0f\x17SCRIPT_FILENAME/srv/shop/www\
      /index.php\x0f\x0bHTTP_USER_AGENTcurl/7.88.1\x0b\x03HTTP_ACCEPT*/*\x13\x02HTTP_CONTE\
      NT_LENGTH11\x11!HTTP_CONTENT_TYPEapplication/x-www-form-urlencoded\0\0\0",
    b"\x01\x04\0\x01\0\0\0\0",
    b"\x01\x05\0\x01\0\x0b\x05\0",
    b"user=nobody",
    b"\0\0\0\0\0",
    b"\x01\x05\0\x01\0\0\0\0",
];

/// One write: the page, and the end.
pub(super) const LOGIN_WRITE: &[u8] =
    b"\x01\x06\0\x01\0F\x02\0Status: 401 Unauthorized\r\nContent-type: text/html; charset=\
      UTF-8\r\n\r\nno\0\0\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\x08\0\0";

/// A page without a status.
pub(super) const PAGE_WRITE: &[u8] =
    b"\x01\x06\0\x01\0,\x04\0Content-type: text/html; charset=UTF-8\r\n\r\nok\0\0\0\0\x01\
      \x03\0\x01\0\x08\0\0\0\0\0\0\0\r\n\r";

/// A warning on standard error comes before the page.
pub(super) const WARNING_WRITE: &[u8] =
    b"\x01\x07\0\x01\0a\x07\0PHP message: PHP Warning:  Undefined array key \"REQUEST_URI\
      \" in /srv/shop/www/index.php on line 2\0\0\0\0\0\0\0\x01\x06\0\x01\0C\x05\0Status: \
      404 Not Found\r\nContent-type: text/html; charset=UTF-8\r\n\r\nnf\0\0\0\0\0\x01\x03\
      \0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
