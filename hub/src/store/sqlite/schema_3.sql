-- Hosts that an operator removed: their certificates outlive them, and must not bring them back.
CREATE TABLE removed (
    host_id    TEXT PRIMARY KEY,
    removed_ms INTEGER NOT NULL
) STRICT;
