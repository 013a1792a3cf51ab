#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A gateway that tells what it was asked, to whoever has a certificate of the site's authority."""

import json
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PKI = "/etc/koren/pki"


class Handler(BaseHTTPRequestHandler):
    """Answers every request with what it was."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {
            "path": self.path,
            "host": self.headers["Host"],
            "client": self.headers.get_all("X-Forwarded-For"),
            "bytes": len(body),
            "certificate": self.connection.getpeercert()["subject"][0][0][1],
        }
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{PKI}/ca.crt")
context.load_cert_chain(f"{PKI}/stand-in.crt", f"{PKI}/stand-in.key")
context.verify_mode = ssl.CERT_REQUIRED
server = ThreadingHTTPServer(("127.0.0.1", 8444), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
