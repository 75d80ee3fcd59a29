-- The first schema. It is one file because goose runs a file in one transaction:
-- a command that is killed while it initialises a database leaves all or nothing.

-- +goose Up

-- A job is one running dataflow; its id is ENGINE/NAME. Rows are written only
-- under the ingest order lock (see inputs), so that no two transactions wait for
-- each other's new jobs.
CREATE TABLE jobs (
    id         text PRIMARY KEY,
    engine     text NOT NULL CHECK (engine <> '' AND strpos(engine, '/') = 0),
    name       text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT jobs_id_is_engine_and_name CHECK (id = engine || '/' || name)
);
CREATE INDEX jobs_by_name ON jobs (name);

-- An input is one ingest: a file, or one poll of an engine.
--
-- id is given when it starts, seq when it commits, under a lock that is held
-- until the commit: so the order of seq is the order in which ingests became
-- visible. Of two values for one (target, metric, time) the greater seq wins.
-- Compaction may then write the merger of segments up to seq n under seq n:
-- whatever is committed afterwards has a greater one. A seq given at the start
-- would let an input with a smaller one appear later and lose to values that
-- are older than its own. NULL is seen only by the ingest itself.
CREATE TABLE inputs (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq            bigint UNIQUE CHECK (seq > 0),
    name           text NOT NULL,                                -- as the user named it
    format         text NOT NULL,
    hash           text NOT NULL,                                -- SHA-256 of the content, hex; empty: never the same as another
    options        text NOT NULL CHECK (octet_length(options) <= 1024), -- what else decides the result
    jobs           text[] NOT NULL DEFAULT '{}',
    row_count      bigint NOT NULL DEFAULT 0 CHECK (row_count >= 0),
    value_count    bigint NOT NULL DEFAULT 0 CHECK (value_count >= 0),
    segment_count  bigint NOT NULL DEFAULT 0 CHECK (segment_count >= 0),
    target_count   bigint NOT NULL DEFAULT 0 CHECK (target_count >= 0),
    conflict_count bigint NOT NULL DEFAULT 0 CHECK (conflict_count >= 0),
    repairs        jsonb NOT NULL DEFAULT '{}',                  -- kind of repair: how often
    skipped        jsonb NOT NULL DEFAULT '[]',                  -- broken rows that were left out
    from_time      timestamptz,
    to_time        timestamptz,
    ingested_at    timestamptz NOT NULL DEFAULT now(),
    forgotten_at   timestamptz,                                  -- a job of it was forgotten: it may come again
    CONSTRAINT inputs_time_range CHECK (from_time <= to_time AND (from_time IS NULL) = (to_time IS NULL))
);
-- The same content with the same options is one input. A second ingest of it
-- waits here until the first has committed or rolled back.
CREATE UNIQUE INDEX inputs_content ON inputs (hash, options) WHERE hash <> '' AND forgotten_at IS NULL;

-- A segment is an Arrow table (IPC, lz4) of one job and one kind of target,
-- within one UTC day. The bytes are compressed already: EXTERNAL spares
-- PostgreSQL the attempt.
--
-- There are no foreign keys on purpose: making or dropping a partition of a
-- table with foreign keys locks the tables that they point to against writes,
-- and an ingest that needs a new day would then wait for itself. The trigger on
-- jobs below does the cascade.
CREATE TABLE segments (
    day         date NOT NULL,
    job         text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('job', 'component', 'instance', 'worker')),
    input       bigint NOT NULL,               -- inputs.id; after compaction the one with the greatest seq
    from_time   timestamptz NOT NULL,          -- first and last row, both inclusive
    to_time     timestamptz NOT NULL,
    row_count   integer NOT NULL CHECK (row_count >= 0),
    value_count bigint NOT NULL CHECK (value_count >= 0),
    hash        text NOT NULL,                 -- SHA-256 of bytes, hex
    bytes       bytea NOT NULL,
    PRIMARY KEY (job, kind, day, input, hash),
    CONSTRAINT segments_within_a_day CHECK (
        from_time <= to_time
        AND from_time >= (day::timestamp AT TIME ZONE 'UTC')
        AND to_time < ((day + 1)::timestamp AT TIME ZONE 'UTC'))
) PARTITION BY RANGE (day);
ALTER TABLE segments ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE INDEX segments_by_time ON segments (job, kind, from_time, to_time);

-- +goose StatementBegin
CREATE FUNCTION jobs_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %I.segments WHERE job = $1', TG_TABLE_SCHEMA) USING OLD.id;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER jobs_forget AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_forget();

-- What a job's graph was from a time on, as an input told it; of two with the
-- same time the one with the greater inputs.seq holds. The key to jobs is
-- checked at the commit because the job's row is written last.
CREATE TABLE topologies (
    job       text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    from_time timestamptz NOT NULL,
    input     bigint NOT NULL REFERENCES inputs (id) ON DELETE CASCADE,
    digest    text NOT NULL,                   -- of graph, parallelism and placement
    body      jsonb NOT NULL,
    PRIMARY KEY (job, from_time, input)
);
CREATE INDEX topologies_by_input ON topologies (input);

-- What one evaluation found. The same evaluation again is the same row.
CREATE TABLE findings (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job            text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    as_of          timestamptz NOT NULL,
    window_length  interval NOT NULL,
    history_digest text NOT NULL,
    policy_digest  text NOT NULL,
    model          text NOT NULL,              -- digest of the model; empty: none
    program        text NOT NULL,              -- version of the program
    body           jsonb NOT NULL,             -- symptoms, diagnoses, unknown
    found_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT findings_once UNIQUE (job, as_of, window_length, history_digest, policy_digest, model, program)
);

-- Which state of a plan may follow which. proposed follows expired and stale
-- when planning the present history gives the same plan once more: it is as
-- fresh as a new one. It never follows discarded: a person said no.
CREATE TABLE plan_transitions (
    from_state text NOT NULL,
    to_state   text NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
INSERT INTO plan_transitions (from_state, to_state) VALUES
    ('proposed', 'approved'), ('proposed', 'discarded'), ('proposed', 'expired'), ('proposed', 'stale'),
    ('approved', 'applying'), ('approved', 'discarded'), ('approved', 'expired'), ('approved', 'stale'),
    ('expired', 'proposed'), ('stale', 'proposed'),
    ('applying', 'applied'), ('applying', 'failed'), ('applying', 'aborted'), ('applying', 'unclear'),
    ('applied', 'met'), ('applied', 'unmet'), ('applied', 'unclear'),
    -- An unclear plan waits for a person, who resumes it, aborts it, or says what came of it.
    ('unclear', 'applying'), ('unclear', 'applied'), ('unclear', 'met'), ('unclear', 'unmet'),
    ('unclear', 'failed'), ('unclear', 'aborted');

-- A plan document and where it stands.
--
-- The state machine is carried by constraints: a change of state keeps the
-- state before it (a trigger does), and the pair must be in plan_transitions.
-- A state that needs an approval names one that exists, of this round and, by
-- the key of approvals, of this digest. round counts how often the plan was
-- proposed: an approval of an earlier round is history and opens nothing.
CREATE TABLE plans (
    id             text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    digest         text NOT NULL UNIQUE CHECK (digest ~ '^[0-9a-f]{64}$'),
    job            text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    as_of          timestamptz NOT NULL,
    body           text NOT NULL,              -- the document, byte for byte; not json, which would rewrite it
    reverses       text REFERENCES plans (id) ON DELETE CASCADE,
    author         text NOT NULL,
    round          integer NOT NULL DEFAULT 1 CHECK (round > 0),
    proposed_at    timestamptz NOT NULL,
    valid_for      interval NOT NULL CHECK (valid_for > interval '0'),
    expires_at     timestamptz NOT NULL,
    state          text NOT NULL DEFAULT 'proposed' CHECK (state IN (
        'proposed', 'approved', 'applying', 'applied', 'met', 'unmet', 'unclear',
        'discarded', 'expired', 'stale', 'failed', 'aborted')),
    previous_state text,
    state_since    timestamptz NOT NULL,
    state_reason   text NOT NULL DEFAULT '',
    approved_by    text,
    CONSTRAINT plans_id_begins_digest CHECK (id = left(digest, 12)),
    CONSTRAINT plans_expiry CHECK (expires_at = proposed_at + valid_for),
    CONSTRAINT plans_begin_proposed CHECK (previous_state IS NOT NULL OR state = 'proposed'),
    CONSTRAINT plans_transition FOREIGN KEY (previous_state, state) REFERENCES plan_transitions (from_state, to_state),
    CONSTRAINT plans_need_approval CHECK (
        approved_by IS NOT NULL OR state IN ('proposed', 'discarded', 'expired', 'stale')),
    UNIQUE (id, digest)
);
CREATE INDEX plans_by_job ON plans (job, proposed_at);
CREATE INDEX plans_by_state ON plans (state, proposed_at);
CREATE INDEX plans_by_reverses ON plans (reverses) WHERE reverses IS NOT NULL;

-- +goose StatementBegin
CREATE FUNCTION plans_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.digest, NEW.job, NEW.as_of, NEW.body) IS DISTINCT FROM (OLD.id, OLD.digest, OLD.job, OLD.as_of, OLD.body)
       OR NEW.reverses IS DISTINCT FROM OLD.reverses THEN
        RAISE EXCEPTION 'plan % cannot be changed: what was reviewed is what is applied', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'plans_unchanged';
    END IF;
    IF NEW.state IS DISTINCT FROM OLD.state THEN
        NEW.previous_state := OLD.state;
    ELSE
        NEW.previous_state := OLD.previous_state;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER plans_guard BEFORE UPDATE ON plans FOR EACH ROW EXECUTE FUNCTION plans_guard();

-- A person's consent to a plan as it stood: it names the digest.
CREATE TABLE approvals (
    plan   text NOT NULL,
    round  integer NOT NULL,
    person text NOT NULL CHECK (person <> ''),
    digest text NOT NULL,
    at     timestamptz NOT NULL,
    note   text NOT NULL DEFAULT '',
    PRIMARY KEY (plan, round, person),
    CONSTRAINT approvals_name_the_digest FOREIGN KEY (plan, digest) REFERENCES plans (id, digest) ON DELETE CASCADE
);
ALTER TABLE plans ADD CONSTRAINT plans_approval FOREIGN KEY (id, round, approved_by) REFERENCES approvals (plan, round, person);

-- Who may act on a job, one plan at a time. The row stays when the lease is
-- given back, because epoch must never fall: an applier that lost its lease is
-- told by a greater epoch.
CREATE TABLE leases (
    job    text PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    plan   text REFERENCES plans (id) ON DELETE CASCADE,
    holder text,                               -- the process that applies
    epoch  bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    until  timestamptz,
    CONSTRAINT leases_held_or_free CHECK ((plan IS NULL) = (holder IS NULL) AND (plan IS NULL) = (until IS NULL))
);
CREATE INDEX leases_by_plan ON leases (plan) WHERE plan IS NOT NULL;

-- The write-ahead journal of an apply: an intent row before an engine is
-- called, a confirm row after it answered. An intent without its confirm is
-- what a crash left.
CREATE TABLE journal (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan    text NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    action  integer NOT NULL CHECK (action >= 0), -- place in the plan, from zero
    attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0),
    step    text NOT NULL CHECK (step IN ('intent', 'confirm')),
    intent  bigint UNIQUE REFERENCES journal (id) ON DELETE CASCADE,
    epoch   bigint NOT NULL CHECK (epoch > 0),
    at      timestamptz NOT NULL,
    call    jsonb,                             -- what was to be sent
    result  jsonb,                             -- what came back
    CONSTRAINT journal_once UNIQUE (plan, action, attempt, step),
    CONSTRAINT journal_steps CHECK (
        CASE step WHEN 'intent' THEN intent IS NULL AND call IS NOT NULL AND result IS NULL
                  ELSE intent IS NOT NULL AND result IS NOT NULL END)
);

-- What came of an action.
CREATE TABLE outcomes (
    plan      text NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    action    integer NOT NULL CHECK (action >= 0),
    job       text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind      text NOT NULL,
    target    jsonb NOT NULL,
    cause     text NOT NULL,
    applied   text NOT NULL CHECK (applied IN ('applied', 'refused', 'failed')),
    judged    text CHECK (judged IN ('met', 'unmet', 'unclear')), -- NULL: not yet
    at        timestamptz NOT NULL,
    judged_at timestamptz,
    detail    text NOT NULL DEFAULT '',
    PRIMARY KEY (plan, action),
    CONSTRAINT outcomes_judged_when CHECK ((judged IS NULL) = (judged_at IS NULL)),
    CONSTRAINT outcomes_judge_what_was_done CHECK (judged IS NULL OR applied = 'applied')
);
CREATE INDEX outcomes_by_job ON outcomes (job, at);

-- A labelled stretch of a job's history.
CREATE TABLE incidents (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job        text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    target     jsonb NOT NULL,
    cause      text NOT NULL,                  -- empty: nothing was wrong
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    certainty  double precision NOT NULL CHECK (certainty BETWEEN 0 AND 1),
    source     text NOT NULL CHECK (source <> ''),
    note       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT incidents_time_range CHECK (start_time <= end_time),
    CONSTRAINT incidents_once UNIQUE (job, target, cause, start_time, end_time, source)
);

-- What happened, for "dhalion log". It is only ever appended to, and has no
-- foreign keys: it outlives the jobs and plans that it tells of.
CREATE TABLE log (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL,
    job    text NOT NULL DEFAULT '',
    plan   text NOT NULL DEFAULT '',
    person text NOT NULL DEFAULT '',
    event  text NOT NULL CHECK (event <> ''),
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX log_by_job ON log (job, id);
CREATE INDEX log_by_plan ON log (plan, id);

-- +goose StatementBegin
CREATE FUNCTION log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is only ever appended to' USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'log_append_only';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON log FOR EACH STATEMENT EXECUTE FUNCTION log_append_only();

-- +goose Down
DROP TABLE log;
DROP FUNCTION log_append_only;
DROP TABLE incidents;
DROP TABLE outcomes;
DROP TABLE journal;
DROP TABLE leases;
ALTER TABLE plans DROP CONSTRAINT plans_approval;
DROP TABLE approvals;
DROP TABLE plans;
DROP FUNCTION plans_guard;
DROP TABLE plan_transitions;
DROP TABLE findings;
DROP TABLE topologies;
DROP TABLE segments;
DROP TABLE inputs;
DROP TABLE jobs;
DROP FUNCTION jobs_forget;
