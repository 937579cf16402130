"""The tables of the view, an SQLite file that can be thrown away: it is rebuilt from the topics.

Rows come first and indexes last: that is much faster when a million rows come at once. Numbers that are not there are
-1 and texts that are not there are empty, for cursors compare them.
"""

FORMAT = 2
"""A view of another format is rebuilt."""

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE positions (topic TEXT, number INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, number)) WITHOUT ROWID;
CREATE TABLE regressions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    known INTEGER NOT NULL DEFAULT 0,         -- whether its statistics have been read
    status TEXT NOT NULL DEFAULT '', project TEXT NOT NULL DEFAULT '', team TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT '', series TEXT NOT NULL DEFAULT '', number INTEGER NOT NULL DEFAULT -1,
    start_text TEXT NOT NULL DEFAULT '',      -- what regr-start gave
    first_text TEXT NOT NULL DEFAULT '',      -- when its first job was seen
    started TEXT NOT NULL GENERATED ALWAYS AS (iif(start_text = '', first_text, start_text)) VIRTUAL,
    heard TEXT NOT NULL DEFAULT '', updated TEXT NOT NULL DEFAULT '', live INTEGER NOT NULL DEFAULT 0,
    fail INTEGER NOT NULL DEFAULT 0, finished INTEGER NOT NULL DEFAULT 0, remaining INTEGER NOT NULL DEFAULT 0,
    pass_rate INTEGER NOT NULL DEFAULT -1,    -- in billionths
    words TEXT NOT NULL DEFAULT ''
);
CREATE TABLE statistics (id INTEGER PRIMARY KEY, listed BLOB NOT NULL, record BLOB NOT NULL);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    regression INTEGER NOT NULL, result INTEGER NOT NULL, verdict INTEGER NOT NULL,
    started_ms INTEGER NOT NULL, finish_ms INTEGER NOT NULL, updated TEXT NOT NULL,
    host TEXT NOT NULL, user TEXT NOT NULL, test TEXT NOT NULL, build TEXT NOT NULL,
    seed TEXT NOT NULL, config TEXT NOT NULL, signature TEXT NOT NULL,
    runtime_ms INTEGER NOT NULL, cycles INTEGER NOT NULL,
    words TEXT,                               -- of live jobs: what a search finds them by
    record BLOB NOT NULL
);
CREATE TABLE updates (seq INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL, record BLOB NOT NULL);
"""

INDEXES = """
CREATE INDEX regressions_started ON regressions (started);
CREATE INDEX regressions_series ON regressions (series, number);
CREATE INDEX jobs_started ON jobs (regression, result, started_ms);
CREATE INDEX jobs_finish ON jobs (regression, result, finish_ms);
CREATE INDEX jobs_runtime ON jobs (regression, result, runtime_ms);
CREATE INDEX jobs_cycles ON jobs (regression, result, cycles);
CREATE INDEX live_started ON jobs (started_ms) WHERE result = 0;
CREATE INDEX live_host ON jobs (host, started_ms, regression) WHERE result = 0;
CREATE INDEX live_user ON jobs (user, started_ms) WHERE result = 0;
CREATE INDEX live_test ON jobs (test, started_ms) WHERE result = 0;
CREATE INDEX live_build ON jobs (build, started_ms) WHERE result = 0;
CREATE INDEX live_seed ON jobs (seed, started_ms) WHERE result = 0;
CREATE INDEX live_config ON jobs (config, started_ms) WHERE result = 0;
CREATE INDEX fails_host ON jobs (host, updated) WHERE result = 2;
CREATE INDEX fails_signature ON jobs (regression, signature, started_ms) WHERE result = 2;
CREATE INDEX updates_job ON updates (job);
CREATE VIRTUAL TABLE live_words USING fts5 (
    words, content = '', detail = none, columnsize = 0, prefix = '1 2 3 5', tokenize = "ascii tokenchars '_'"
);
INSERT INTO live_words (rowid, words) SELECT id, words FROM jobs WHERE words IS NOT NULL;
"""

TRIGGERS = """
CREATE TRIGGER jobs_insert AFTER INSERT ON jobs WHEN new.words IS NOT NULL BEGIN
    INSERT INTO live_words (rowid, words) VALUES (new.id, new.words);
END;
CREATE TRIGGER jobs_words AFTER UPDATE ON jobs WHEN old.words IS NOT new.words BEGIN
    INSERT INTO live_words (live_words, rowid, words) SELECT 'delete', old.id, old.words WHERE old.words IS NOT NULL;
    INSERT INTO live_words (rowid, words) SELECT new.id, new.words WHERE new.words IS NOT NULL;
END;
CREATE TRIGGER jobs_record AFTER UPDATE ON jobs WHEN old.record <> new.record BEGIN
    INSERT INTO updates (job, record) VALUES (old.id, old.record);
END;
CREATE TRIGGER jobs_delete AFTER DELETE ON jobs BEGIN
    INSERT INTO live_words (live_words, rowid, words) SELECT 'delete', old.id, old.words WHERE old.words IS NOT NULL;
    DELETE FROM updates WHERE job = old.id;
END;
"""
