-- What people decided, and who did what.

-- In force: neither ended (ended_unix_ms) nor over (holds_ms since it was made; NULL: until it is withdrawn).
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL CHECK (topic IN ('mode', 'build')),
    service TEXT NOT NULL,
    -- Empty where the topic has none; an empty endpoint of a build: the build as a whole.
    build TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- The name of a mode, or 'accepted' or 'condemned'.
    value TEXT NOT NULL,
    -- The state that a build goes back to when the decision is over.
    before TEXT,
    uid INTEGER,
    name TEXT NOT NULL,
    made_unix_ms INTEGER NOT NULL,
    made_mono_ns INTEGER NOT NULL,
    made_boot TEXT NOT NULL,
    holds_ms INTEGER,
    ended_unix_ms INTEGER,
    ended_why TEXT
) STRICT;

CREATE UNIQUE INDEX one_decision_in_force ON decisions (topic, service, build, endpoint) WHERE ended_unix_ms IS NULL;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_unix_ms INTEGER NOT NULL,
    at_mono_ns INTEGER NOT NULL,
    at_boot TEXT NOT NULL,
    -- NULL: the agent itself.
    uid INTEGER,
    name TEXT NOT NULL,
    command TEXT NOT NULL,
    done INTEGER NOT NULL CHECK (done IN (0, 1)),
    said TEXT NOT NULL
) STRICT;
