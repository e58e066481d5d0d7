-- Whether the host has not been given it yet, as the revision's rollout has not come to it: its target is an earlier one.
ALTER TABLE slices ADD COLUMN withheld INTEGER NOT NULL DEFAULT 0;

-- How revisions spread; at most one of a topology is neither superseded nor over.
CREATE TABLE rollouts (
    topology   TEXT NOT NULL,
    generation INTEGER NOT NULL,
    plan       TEXT NOT NULL,
    state      TEXT NOT NULL,
    -- Why it is so, in words; empty when there is nothing to say.
    reason     TEXT NOT NULL DEFAULT '',
    -- Failures that an operator has forgiven.
    forgiven   INTEGER NOT NULL DEFAULT 0,
    started_ms INTEGER NOT NULL,
    started_by TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    PRIMARY KEY (topology, generation),
    FOREIGN KEY (topology, generation) REFERENCES revisions (topology, generation)
) STRICT;

CREATE TABLE rollout_hosts (
    topology    TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    host_id     TEXT NOT NULL REFERENCES hosts (host_id),
    standing    TEXT NOT NULL,
    reason      TEXT NOT NULL DEFAULT '',
    released_ms INTEGER NOT NULL DEFAULT 0,
    changed_ms  INTEGER NOT NULL,
    PRIMARY KEY (topology, generation, host_id),
    FOREIGN KEY (topology, generation) REFERENCES rollouts (topology, generation)
) STRICT;
CREATE INDEX rollout_hosts_of_host ON rollout_hosts (host_id);
