//! A packet as nginx sends it and uWSGI reads it (seen with `strace -xx`).

pub(super) const PACKET: &[u8] =
    b"\0\xd5\x01\0\x0c\0QUERY_STRING\x03\0x=1\x0e\0REQUEST_METHOD\x04\0POST\x0c\0CONTENT_T\
      YPE!\0application/x-www-form-urlencoded\x0e\0CONTENT_LENGTH\x02\0\x311\x0b\0REQUEST_\
      URI\n\0/login?x=1\t\0PATH_INFO\x06\0/login\r\0DOCUMENT_ROOT\x15\0/usr/share/nginx/ht\
      ml\x0f\0SERVER_PROTOCOL\x08\0HTTP/1.1\x0e\0REQUEST_SCHEME\x04\0http\x0b\0REMOTE_ADDR\
      \t\0\x3127.0.0.1\x0b\0REMOTE_PORT\x05\0\x354364\x0b\0SERVER_PORT\x05\0\x318572\x0b\0\
      SERVER_NAME\0\0\t\0HTTP_HOST\t\0\x3127.0.0.1\x0f\0HTTP_USER_AGENT\x0b\0curl/7.88.1\
      \x0b\0HTTP_ACCEPT\x03\0*/*\x13\0HTTP_CONTENT_LENGTH\x02\0\x311\x11\0HTTP_CONTENT_TYP\
      E!\0application/x-www-form-urlencodeduser=nobody";
