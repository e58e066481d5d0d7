-- Whether an operator keeps what is pushed from the host for now, since when, and why; 0 for no.
ALTER TABLE hosts ADD COLUMN cordoned_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN cordoned_by TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN cordon_reason TEXT NOT NULL DEFAULT '';
-- What it should have until then: its target at that moment.
ALTER TABLE hosts ADD COLUMN cordon_topology TEXT;
ALTER TABLE hosts ADD COLUMN cordon_generation INTEGER NOT NULL DEFAULT 0;
