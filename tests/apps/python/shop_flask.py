"""The application of the WSGI servers: Flask, with Werkzeug's own password hash.

With DATABASE_URL in the environment, /login looks the user up in PostgreSQL instead of in memory.
"""

import os
import time

from flask import Flask, jsonify, request
from werkzeug.security import check_password_hash, generate_password_hash

# scrypt's last number multiplies the work; 8192:8:1 takes some 20 ms.
METHOD = f"scrypt:8192:8:{int(os.environ.get('HASH_COST', '1'))}"
USERS = {"ann": generate_password_hash("secret", method=METHOD)}
CATALOGUE = [{"id": number, "name": f"Article {number}", "price": 100 * number} for number in range(1, 21)]

flask = Flask(__name__)


if "DATABASE_URL" in os.environ:
    import shop_database

    shop_database.enrol(USERS)
    stored_hash = shop_database.stored_hash
else:
    stored_hash = USERS.get


@flask.post("/login")
def login():
    """Checks a password; an unknown user fails before any hashing."""
    stored = stored_hash(request.form.get("user", ""))
    if stored is None:
        return jsonify(error="unknown user"), 401
    if not check_password_hash(stored, request.form.get("password", "")):
        return jsonify(error="wrong password"), 401
    return jsonify(welcome=request.form["user"])


@flask.get("/browse")
def browse():
    """The catalogue: light."""
    return jsonify(articles=CATALOGUE)


@flask.get("/report")
def report():
    """Waits for a slow system elsewhere: long, but next to no CPU."""
    time.sleep(0.05)
    return jsonify(sales=42)


def app(environ, start_response):
    """Flask, with the thread CPU time of each request told in its answer."""
    begun = time.thread_time_ns()

    def start(status, headers, exc_info=None):
        headers.append(("X-Cpu-Ns", str(time.thread_time_ns() - begun)))
        return start_response(status, headers, exc_info)

    return flask(environ, start)
