-- The inbox: what differs on hosts from what operators signed, and what was decided about it.
CREATE TABLE drift (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- A host's id; never absent.
    scope TEXT NOT NULL,
    resource TEXT NOT NULL,
    field TEXT NOT NULL,
    expected TEXT NOT NULL,
    actual TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'accepted', 'reverted', 'stale', 'ignored')),
    topology TEXT NOT NULL,
    generation INTEGER NOT NULL,
    detected_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    resolved_ms INTEGER NOT NULL DEFAULT 0,
    resolved_by TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    ignored_until_ms INTEGER NOT NULL DEFAULT 0,
    accepted_generation INTEGER NOT NULL DEFAULT 0,
    op_id TEXT NOT NULL DEFAULT ''
) STRICT;

-- One open row for a field, whatever reports say how often.
CREATE UNIQUE INDEX drift_open ON drift (scope, resource, field) WHERE status = 'open';
-- And one that is ignored.
CREATE UNIQUE INDEX drift_ignored ON drift (scope, resource, field) WHERE status = 'ignored';
CREATE INDEX drift_of ON drift (scope, id);
CREATE INDEX drift_due ON drift (ignored_until_ms) WHERE status = 'ignored';
