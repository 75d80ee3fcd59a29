-- Compaction must know which segments it need not look at again.

-- +goose Up

-- filled says that compaction cut this segment off because it was full. Its rows
-- and values alone do not tell: the columns of a table are as long as its rows,
-- also where most of them are unknown.
ALTER TABLE segments ADD COLUMN filled boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE segments DROP COLUMN filled;
