-- What an incident is about: a build may have an open one of each kind.

ALTER TABLE incidents ADD COLUMN kind TEXT NOT NULL DEFAULT 'cost' CHECK (kind IN ('cost', 'release_window'));

DROP INDEX one_open_incident_per_build;

CREATE UNIQUE INDEX one_open_incident_of_a_kind ON incidents (service, bad_build, kind)
    WHERE state NOT IN ('recovered', 'closed');
