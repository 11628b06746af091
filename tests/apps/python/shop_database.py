"""Users in PostgreSQL, over one connection that each process keeps."""

import functools
import os

import psycopg

CREATE = "CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY, password_hash text NOT NULL)"


@functools.cache
def connection() -> psycopg.Connection:
    """This process's connection, made when it is first needed: it must not be shared over a fork."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


def enrol(users: dict[str, str]) -> None:
    """Stores users who are not there yet."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        # Two workers that create a table at once would trip over each other.
        database.execute("SELECT pg_advisory_xact_lock(1)")
        database.execute(CREATE)
        for user in users.items():
            database.execute("INSERT INTO users VALUES (%s, %s) ON CONFLICT DO NOTHING", user)


def stored_hash(user: str) -> str | None:
    """The hash of a user's password, if there is such a user."""
    row = connection().execute("SELECT password_hash FROM users WHERE name = %s", (user,)).fetchone()
    return row and row[0]
