-- Figures cell by cell, and a journal of what came since they were last written whole.

CREATE TABLE figures (
    service TEXT NOT NULL,
    build TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- Index of the status class, exact status (0: only its class is known), index of the process's age.
    class INTEGER NOT NULL CHECK (class BETWEEN 0 AND 5),
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 999),
    age INTEGER NOT NULL CHECK (age BETWEEN 0 AND 4),
    json TEXT NOT NULL CHECK (json_valid(json)),
    UNIQUE (service, build, endpoint, class, status, age),
    FOREIGN KEY (service, build) REFERENCES builds (service, build) ON DELETE CASCADE
) STRICT;

-- Until now the status class was all that was known; and the age of no process was, so all count as old.
INSERT INTO figures (service, build, endpoint, class, status, age, json)
SELECT baselines.service, baselines.build, baselines.endpoint,
    CASE of_class.key
        WHEN 'informational' THEN 1
        WHEN 'success' THEN 2
        WHEN 'redirect' THEN 3
        WHEN 'client_error' THEN 4
        WHEN 'server_error' THEN 5
        ELSE 0
    END,
    0, 4, json_remove(of_class.value, '$.first_mono_ns', '$.last_mono_ns')
FROM baselines, json_each(baselines.json, '$.classes') AS of_class;

DROP TABLE baselines;

-- What else is known of a build, as of the last time that it was written whole.
CREATE TABLE progress (
    service TEXT NOT NULL,
    build TEXT NOT NULL,
    json TEXT NOT NULL CHECK (json_valid(json)),
    PRIMARY KEY (service, build),
    FOREIGN KEY (service, build) REFERENCES builds (service, build) ON DELETE CASCADE
) STRICT;

-- One row a second and build at most, oldest first by seq; none of a build that was just written whole. Without an index:
-- each one would be another page to write with every row.
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    build TEXT NOT NULL,
    json TEXT NOT NULL CHECK (json_valid(json)),
    FOREIGN KEY (service, build) REFERENCES builds (service, build) ON DELETE CASCADE
) STRICT;

-- The highest rate of an endpoint that lasted. No duration here is taken from the wall clock.
CREATE TABLE peaks (
    service TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    watched_seconds INTEGER NOT NULL,
    -- NULL until the first whole window was seen.
    per_second REAL,
    at_unix_ms INTEGER,
    PRIMARY KEY (service, endpoint)
) STRICT;
