"""A small shop: the application that the demonstration deploys and rolls back.

What a release costs lives in the release: settings.json beside this file says how many iterations a password
check takes, REVISION which build it is.
"""

import hashlib
import hmac
import json
import os
import pathlib
import time

from flask import Flask, jsonify, request

RELEASE = pathlib.Path(__file__).resolve().parent
REVISION = (RELEASE / "REVISION").read_text(encoding="utf-8").strip()
SETTINGS = json.loads((RELEASE / "settings.json").read_text(encoding="utf-8"))
ITERATIONS = int(SETTINGS["pbkdf2_iterations"])
CATALOGUE = [{"id": number, "name": f"Article {number}", "price": 100 * number} for number in range(1, 21)]


def derive(password: str, salt: bytes) -> bytes:
    """The hash that is stored for a password."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)


def enrol(password: str) -> tuple[bytes, bytes]:
    """Salt and hash of a new user."""
    salt = os.urandom(16)
    return salt, derive(password, salt)


USERS = {"ann": enrol("correct horse"), "bob": enrol("battery staple")}

app = Flask(__name__)


@app.post("/login")
def login():
    """Checks a password; an unknown user fails before any hashing."""
    stored = USERS.get(request.form.get("user", ""))
    if stored is None:
        return jsonify(error="unknown user"), 401
    salt, wanted = stored
    if not hmac.compare_digest(derive(request.form.get("password", ""), salt), wanted):
        return jsonify(error="wrong password"), 401
    return jsonify(welcome=request.form["user"])


@app.get("/browse")
def browse():
    """The catalogue: light."""
    return jsonify(articles=CATALOGUE)


@app.get("/report")
def report():
    """Waits for a slow system elsewhere: long, but next to no CPU."""
    time.sleep(0.05)
    return jsonify(sales=42)


@app.after_request
def name_build(response):
    """Tells the client which build answered."""
    response.headers["X-Build"] = REVISION
    return response
