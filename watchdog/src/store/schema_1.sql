-- Points in time have three columns: wall clock for people, monotonic clock and boot id to measure durations.

CREATE TABLE builds (
    service TEXT NOT NULL,
    build TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('adopted', 'probation', 'good', 'condemned')),
    first_seen_unix_ms INTEGER NOT NULL,
    first_seen_mono_ns INTEGER NOT NULL,
    first_seen_boot TEXT NOT NULL,
    state_since_unix_ms INTEGER NOT NULL,
    state_since_mono_ns INTEGER NOT NULL,
    state_since_boot TEXT NOT NULL,
    why TEXT NOT NULL,
    -- Order of appearance on the host, independent of any clock; the latest good one is the last good build.
    appeared INTEGER NOT NULL,
    PRIMARY KEY (service, build)
) STRICT, WITHOUT ROWID;

CREATE TABLE baselines (
    service TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    build TEXT NOT NULL,
    json TEXT NOT NULL CHECK (json_valid(json)),
    updated_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (service, endpoint, build),
    FOREIGN KEY (service, build) REFERENCES builds (service, build) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE incidents (
    id TEXT PRIMARY KEY NOT NULL,
    service TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    bad_build TEXT NOT NULL,
    good_build TEXT,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL CHECK (json_valid(evidence)),
    mode TEXT NOT NULL CHECK (mode IN ('observe', 'approve', 'enforce')),
    state TEXT NOT NULL,
    detected_unix_ms INTEGER NOT NULL,
    detected_mono_ns INTEGER NOT NULL,
    detected_boot TEXT NOT NULL,
    state_since_unix_ms INTEGER NOT NULL,
    state_since_mono_ns INTEGER NOT NULL,
    state_since_boot TEXT NOT NULL,
    -- When the first intent to run the hook was journaled; these count for the cooldown and the day's limit.
    intent_unix_ms INTEGER,
    intent_mono_ns INTEGER,
    intent_boot TEXT
) STRICT;

CREATE UNIQUE INDEX one_open_incident_per_build ON incidents (service, bad_build)
    WHERE state NOT IN ('recovered', 'closed');

CREATE TABLE incident_events (
    seq INTEGER PRIMARY KEY,
    incident TEXT NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
    at_unix_ms INTEGER NOT NULL,
    at_mono_ns INTEGER NOT NULL,
    at_boot TEXT NOT NULL,
    from_state TEXT,
    to_state TEXT NOT NULL,
    note TEXT NOT NULL
) STRICT;

CREATE INDEX events_of_incident ON incident_events (incident, seq);

CREATE TABLE hook_attempts (
    incident TEXT NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    journaled_unix_ms INTEGER NOT NULL,
    journaled_mono_ns INTEGER NOT NULL,
    journaled_boot TEXT NOT NULL,
    pid INTEGER,
    start_ticks INTEGER,
    started_unix_ms INTEGER,
    started_mono_ns INTEGER,
    started_boot TEXT,
    ended_unix_ms INTEGER,
    ended_mono_ns INTEGER,
    ended_boot TEXT,
    outcome TEXT,
    exit_code INTEGER,
    signal INTEGER,
    stdout TEXT NOT NULL DEFAULT '',
    stderr TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (incident, attempt)
) STRICT, WITHOUT ROWID;
