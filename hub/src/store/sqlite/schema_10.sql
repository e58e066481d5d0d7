-- Plans, apart from what changes of their sagas: a row is written whole, and a plan is large.
CREATE TABLE saga_plans (
    saga_id TEXT PRIMARY KEY REFERENCES sagas (saga_id) ON DELETE CASCADE,
    envelope BLOB NOT NULL
) STRICT;
INSERT INTO saga_plans (saga_id, envelope) SELECT saga_id, plan FROM sagas;
ALTER TABLE sagas DROP COLUMN plan;
