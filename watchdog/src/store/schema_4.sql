-- What people decided about an incident, dry runs, what a verification found, and the pause of all rollbacks.

ALTER TABLE incidents ADD COLUMN approved_by TEXT;
ALTER TABLE incidents ADD COLUMN rejected_by TEXT;
ALTER TABLE incidents ADD COLUMN dry_run INTEGER NOT NULL DEFAULT 0 CHECK (dry_run IN (0, 1));

-- Milliseconds count from the step into `verifying`.
CREATE TABLE verifications (
    incident TEXT PRIMARY KEY NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
    -- The good build's first request; NULL: none came.
    good_served_after_ms INTEGER,
    -- The end of the bad build's last request that began after the hook; NULL: none came.
    bad_served_until_ms INTEGER,
    ended_after_ms INTEGER NOT NULL,
    -- On the incident's endpoint, by the good build.
    requests INTEGER NOT NULL,
    mean_ns INTEGER,
    limit_ns INTEGER,
    baseline_ns INTEGER
) STRICT, WITHOUT ROWID;

-- One row while all rollbacks are paused, and after that until the next pause.
CREATE TABLE pause (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    by_whom TEXT NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    since_mono_ns INTEGER NOT NULL,
    since_boot TEXT NOT NULL,
    lasts_ms INTEGER NOT NULL
) STRICT;

-- The pause before another attempt that the hook asked for had no state of its own.
INSERT INTO incident_events (incident, at_unix_ms, at_mono_ns, at_boot, from_state, to_state, note)
SELECT id, state_since_unix_ms, state_since_mono_ns, state_since_boot, state, 'armed',
    'the hook had asked to be tried again'
FROM incidents
WHERE state = 'hook_running' AND (
    SELECT outcome FROM hook_attempts WHERE incident = incidents.id ORDER BY attempt DESC LIMIT 1
) IS NOT NULL;

UPDATE incidents SET state = 'armed'
WHERE state = 'hook_running' AND (
    SELECT outcome FROM hook_attempts WHERE incident = incidents.id ORDER BY attempt DESC LIMIT 1
) IS NOT NULL;
