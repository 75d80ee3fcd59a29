-- Which vectors a model judges, beside it and not in its artefact alone.

-- +goose Up

-- The SHA-256 (hex) over the schemas of the vectors that it was trained on; a program
-- whose vectors have another refuses the model. Empty: kept before this column was, and
-- filled in when the same artefact is saved again.
ALTER TABLE models ADD COLUMN schema_digest text NOT NULL DEFAULT '' CHECK (schema_digest ~ '^([0-9a-f]{64})?$');

-- +goose Down
ALTER TABLE models DROP COLUMN schema_digest;
