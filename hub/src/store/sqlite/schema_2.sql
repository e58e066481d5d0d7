-- Whether an agent brought the root and no operator has put it yet.
ALTER TABLE roots ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0;
