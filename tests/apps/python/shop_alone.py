"""The shop with nothing but Python's own library, for servers that bring a Python of their own."""

import hashlib
import hmac
import json
import os
import time
from urllib.parse import parse_qs

# The last number multiplies the work; 8192, 8, 1 takes some 20 ms.
COST = {"n": 8192, "r": 8, "p": int(os.environ.get("HASH_COST", "1")), "dklen": 64}
SALT = os.urandom(16)
USERS = {"ann": hashlib.scrypt(b"secret", salt=SALT, **COST)}
CATALOGUE = [{"id": number, "name": f"Article {number}", "price": 100 * number} for number in range(1, 21)]


def login(environ):
    """Checks a password; an unknown user fails before any hashing."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    form = parse_qs(environ["wsgi.input"].read(length).decode())
    user, password = form["user"][0], form["password"][0].encode()
    stored = USERS.get(user)
    if stored is None:
        return "401 Unauthorized", {"error": "unknown user"}
    if not hmac.compare_digest(stored, hashlib.scrypt(password, salt=SALT, **COST)):
        return "401 Unauthorized", {"error": "wrong password"}
    return "200 OK", {"welcome": user}


def browse(_environ):
    """The catalogue: light."""
    return "200 OK", {"articles": CATALOGUE}


def report(_environ):
    """Waits for a slow system elsewhere: long, but next to no CPU."""
    time.sleep(0.05)
    return "200 OK", {"sales": 42}


PAGES = {("POST", "/login"): login, ("GET", "/browse"): browse, ("GET", "/report"): report}


def application(environ, start_response):
    """Answers, with the thread CPU time of each request told."""
    begun = time.thread_time_ns()
    page = PAGES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    status, content = page(environ) if page else ("404 Not Found", {})
    body = json.dumps(content).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Cpu-Ns", str(time.thread_time_ns() - begun)),
    ]
    start_response(status, headers)
    return [body]
