"""A shop with Flask, with and without OpenTelemetry."""

import hashlib
import hmac
import os
import time

from flask import Flask, jsonify, request

from telemetry import instrument, seen

ITERATIONS = 80_000
SALT = os.urandom(16)
CATALOGUE = [{"id": number, "name": f"Article {number}", "price": 100 * number} for number in range(1, 21)]


def derive(password: str) -> bytes:
    """The hash that is stored for a password."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, ITERATIONS)


USERS = {"ann": derive("secret")}

app = Flask(__name__)


@app.post("/login")
def login():
    """Checks a password; an unknown user fails before any hashing."""
    stored = USERS.get(request.form.get("user", ""))
    if stored is None or not hmac.compare_digest(derive(request.form.get("password", "")), stored):
        return jsonify(error="unknown user or wrong password"), 401
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


@app.get("/telemetry")
def telemetry():
    """What this process has handed to its exporters so far; proves that it is instrumented, or that it is not."""
    return jsonify(seen)


# gunicorn imports this module in each worker (no preload), where the exporters' threads must be.
instrument(app)
