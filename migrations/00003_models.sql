-- What incidents belong together, and models that were learned from them.

-- +goose Up

-- incident names what was wrong at once (rows with one name are one incident);
-- family what jobs are alike, so that a model is tried on a job unlike those that
-- it has seen; person who said so.
ALTER TABLE incidents ADD COLUMN incident text NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN family text NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN person text NOT NULL DEFAULT '';

-- A trained model: its artefact, and what it says of itself.
CREATE TABLE models (
    id         text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    artefact   bytea NOT NULL,
    about      jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    person     text NOT NULL,
    note       text NOT NULL DEFAULT ''
);
ALTER TABLE models ALTER COLUMN artefact SET STORAGE EXTERNAL;

-- Which model was made the active one, when and by whom: the newest row counts.
-- Empty: none, the rules answer alone.
CREATE TABLE promotions (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model    text REFERENCES models (id),
    at       timestamptz NOT NULL,
    person   text NOT NULL,
    note     text NOT NULL DEFAULT '',
    rollback boolean NOT NULL DEFAULT false
);

-- +goose Down
DROP TABLE promotions;
DROP TABLE models;
ALTER TABLE incidents DROP COLUMN person;
ALTER TABLE incidents DROP COLUMN family;
ALTER TABLE incidents DROP COLUMN incident;
