-- Signed one-shot operations, in the order of their submission. A number is never used twice: it is how far a session has come.
CREATE TABLE ops (
    sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
    op_id          TEXT NOT NULL UNIQUE,
    host_id        TEXT NOT NULL REFERENCES hosts (host_id),
    host_epoch     TEXT NOT NULL,
    resource       TEXT NOT NULL,
    kind           TEXT NOT NULL,
    -- Empty, and no envelope, for one of which only its receipt is known.
    class          TEXT NOT NULL,
    envelope       BLOB,
    payload_sha256 TEXT NOT NULL,
    root_version   INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    submitted_ms   INTEGER NOT NULL,
    submitted_by   TEXT NOT NULL,
    state          TEXT NOT NULL,
    -- Whether its host may still have to be told of it.
    open           INTEGER NOT NULL,
    updated_ms     INTEGER NOT NULL,
    message        TEXT NOT NULL,
    same_as        TEXT NOT NULL DEFAULT '',
    code           TEXT NOT NULL DEFAULT '',
    fault          TEXT NOT NULL DEFAULT '',
    receipt        BLOB
) STRICT;
CREATE INDEX ops_of_host ON ops (host_id, sequence);
CREATE INDEX ops_open ON ops (host_id, sequence) WHERE open = 1;
CREATE INDEX ops_unsent ON ops (expires_at) WHERE state = 'submitted';

-- The newest journal record of a host's life that a heartbeat named.
ALTER TABLE hosts ADD COLUMN witnessed_epoch TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN witnessed_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN witnessed_head BLOB NOT NULL DEFAULT x'';
