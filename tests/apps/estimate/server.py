"""A server of logins that cannot be measured well.

--tls: over TLS that ends here; without a certificate, so none has to be made.
--busy: beside a child process that uses the CPU half of the time, and no request is the reason.
Writes its port to --port-file once it serves.
"""

import argparse
import os
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        burn(0.004)
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--port-file", required=True)
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aNULL:@SECLEVEL=0")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    parent = os.getpid()
    if options.busy and os.fork() == 0:
        server.socket.close()
        # Ends with its parent, however that ends.
        while os.getppid() == parent:
            burn(0.05)
            time.sleep(0.05)
        os._exit(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open(options.port_file + ".new", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(options.port_file + ".new", options.port_file)
    while True:
        time.sleep(3600)


main()
