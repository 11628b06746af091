"""Logs in over TLS: PORT, and how often."""

import socket
import ssl
import sys

port, logins = int(sys.argv[1]), int(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("aNULL:@SECLEVEL=0")
for _ in range(logins):
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        body = b"user=ann&password=secret"
        head = "POST /login HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head.encode() + body)
        answer = connection.recv(65536)
        if b" 200 " not in answer.split(b"\r\n")[0]:
            sys.exit("answered %r" % answer)
