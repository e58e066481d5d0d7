-- Sagas. `state` is what the core made of all that happened; `revision` counts its changes.
CREATE TABLE sagas (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    saga_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    deployment TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    plan BLOB NOT NULL,
    payload_sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    status TEXT NOT NULL,
    open INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    started_by TEXT NOT NULL,
    changed_ms INTEGER NOT NULL
);
CREATE INDEX sagas_by_status ON sagas (status, sequence);
CREATE INDEX sagas_open ON sagas (sequence) WHERE open = 1;
-- One row for each that is open: who runs it, until when nobody else may, and how often that was taken over.
CREATE TABLE saga_work (
    saga_id TEXT PRIMARY KEY REFERENCES sagas (saga_id) ON DELETE CASCADE,
    runner TEXT NOT NULL,
    fence INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX saga_work_by_end ON saga_work (until_ms);
-- The orders that operators signed for it.
CREATE TABLE saga_orders (
    saga_id TEXT NOT NULL REFERENCES sagas (saga_id) ON DELETE CASCADE,
    payload_sha256 TEXT NOT NULL,
    op_id TEXT NOT NULL UNIQUE,
    envelope BLOB NOT NULL,
    PRIMARY KEY (saga_id, payload_sha256)
) WITHOUT ROWID;
-- The revisions that its steps push, by the hash of their source.
CREATE TABLE saga_revisions (
    saga_id TEXT NOT NULL REFERENCES sagas (saga_id) ON DELETE CASCADE,
    source_sha256 TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (saga_id, source_sha256)
) WITHOUT ROWID;
-- What operators said of it.
CREATE TABLE saga_words (
    saga_id TEXT NOT NULL REFERENCES sagas (saga_id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    PRIMARY KEY (saga_id, number)
) WITHOUT ROWID;
-- What happened to it, for people.
CREATE TABLE saga_facts (
    saga_id TEXT NOT NULL REFERENCES sagas (saga_id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (saga_id, number)
) WITHOUT ROWID;
