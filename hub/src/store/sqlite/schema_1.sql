CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE roots (
    version        INTEGER PRIMARY KEY,
    payload_sha256 TEXT NOT NULL,
    envelope       BLOB NOT NULL,
    stored_ms      INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    token_id      TEXT PRIMARY KEY,
    join_key_hash TEXT NOT NULL,
    name          TEXT NOT NULL,
    expires       INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    -- The request key that consumed it; NULL while unused.
    used_spki     TEXT,
    used_host     TEXT,
    used_ms       INTEGER
) STRICT;

CREATE TABLE hosts (
    host_id            TEXT PRIMARY KEY,
    name               TEXT NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('pending', 'bound')),
    host_key           BLOB NOT NULL CHECK (length(host_key) = 32),
    sealing_key        BLOB NOT NULL CHECK (length(sealing_key) = 32),
    host_epoch         TEXT NOT NULL,
    claim_mac          BLOB NOT NULL,
    token_id           TEXT NOT NULL,
    joined_ms          INTEGER NOT NULL,
    binding            BLOB,
    binding_serial     INTEGER NOT NULL DEFAULT 0,
    -- The newest certificate number that was issued, and the newest that was shown to us.
    certificate_issued INTEGER NOT NULL DEFAULT 0,
    certificate_used   INTEGER NOT NULL DEFAULT 0,
    locked             INTEGER NOT NULL DEFAULT 0,
    agent_version      TEXT NOT NULL DEFAULT '',
    heartbeat          BLOB,
    heartbeat_ms       INTEGER NOT NULL DEFAULT 0,
    -- The topology that the host follows; its newest slice is the target.
    target_topology    TEXT,
    -- The topology that waits until the target, a teardown, is confirmed.
    next_topology      TEXT,
    -- The newest revision that the host reported applied.
    done_topology      TEXT,
    done_generation    INTEGER NOT NULL DEFAULT 0,
    CHECK (state = 'pending' OR binding IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX hosts_bound_name ON hosts (name) WHERE state = 'bound';

CREATE TABLE revisions (
    topology      TEXT NOT NULL,
    generation    INTEGER NOT NULL,
    -- NULL for a revision that was recovered from what agents held.
    source        BLOB,
    source_sha256 TEXT NOT NULL,
    down          INTEGER NOT NULL,
    pushed_ms     INTEGER NOT NULL,
    pushed_by     TEXT NOT NULL,
    message       TEXT NOT NULL,
    PRIMARY KEY (topology, generation)
) STRICT;

CREATE TABLE slices (
    topology       TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    host_id        TEXT NOT NULL REFERENCES hosts (host_id),
    version_hash   TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    empty          INTEGER NOT NULL,
    resources      TEXT NOT NULL,
    envelope       BLOB NOT NULL,
    PRIMARY KEY (topology, generation, host_id),
    FOREIGN KEY (topology, generation) REFERENCES revisions (topology, generation)
) STRICT;
CREATE INDEX slices_of_host ON slices (host_id, topology, generation);

CREATE TABLE reports (
    host_id     TEXT PRIMARY KEY REFERENCES hosts (host_id),
    envelope    BLOB NOT NULL,
    digest      TEXT NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE refusals (
    host_id        TEXT NOT NULL REFERENCES hosts (host_id),
    kind           TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    code           TEXT NOT NULL,
    message        TEXT NOT NULL,
    at_ms          INTEGER NOT NULL,
    PRIMARY KEY (host_id, kind)
) STRICT;

CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    origin     TEXT NOT NULL,
    host       TEXT NOT NULL,
    topology   TEXT NOT NULL,
    generation INTEGER NOT NULL,
    code       TEXT NOT NULL,
    message    TEXT NOT NULL,
    -- The hash of the statement that it is about.
    body       TEXT NOT NULL,
    -- SHA-256 over the previous row's hash and this row.
    hash       TEXT NOT NULL
) STRICT;
