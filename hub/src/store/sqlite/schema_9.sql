-- What clouds have. `deleted_ms` stays: listings go on showing what is gone, and it never comes back.
CREATE TABLE resources (
    cloud TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('droplet', 'snapshot')),
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    -- How many listings in a row did not have it.
    missed INTEGER NOT NULL DEFAULT 0,
    deleted_ms INTEGER NOT NULL DEFAULT 0,
    saga_id TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (cloud, kind, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX resources_deleted ON resources (deleted_ms) WHERE deleted_ms > 0;
-- What happened to them.
CREATE TABLE resource_events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    cloud TEXT NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    saga_id TEXT NOT NULL
) STRICT;
CREATE INDEX resource_events_of ON resource_events (cloud, kind, number, sequence);
-- What droplets should be like.
CREATE TABLE provisioned (
    cloud TEXT NOT NULL,
    number INTEGER NOT NULL,
    spec TEXT NOT NULL,
    spec_version INTEGER NOT NULL,
    provisioned_ms INTEGER NOT NULL,
    provisioned_by TEXT NOT NULL,
    saga_id TEXT NOT NULL,
    PRIMARY KEY (cloud, number)
) STRICT, WITHOUT ROWID;

-- Beside revisions, a plan names what first boots are told.
ALTER TABLE saga_revisions RENAME TO saga_parts;
ALTER TABLE saga_parts RENAME COLUMN source_sha256 TO sha256;
