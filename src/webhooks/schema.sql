-- Which limits were crossed, and which endpoints are yet to hear of it.

-- One row: tells the ids of this file from those of another.
CREATE TABLE producer (id TEXT NOT NULL) STRICT;

CREATE TABLE endpoint (
    number INTEGER PRIMARY KEY,
    -- SHA-256 of the URL, which may hold a secret.
    url BLOB NOT NULL UNIQUE,
    -- It has answered 410.
    disabled INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Remembered until its window has ended, so that a repeat is known.
CREATE TABLE crossing (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The same in every attempt, to every endpoint.
    id TEXT NOT NULL UNIQUE,
    -- JSON; empty once nobody is to hear of it any more.
    body TEXT NOT NULL,
    -- Nanoseconds since the Unix epoch: the end of its window.
    ends INTEGER NOT NULL
) STRICT;

-- What was delivered has no row.
CREATE TABLE delivery (
    crossing INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    -- How many have failed.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Nanoseconds since the Unix epoch; NULL when it was given up.
    due INTEGER,
    PRIMARY KEY (endpoint, crossing)
) STRICT, WITHOUT ROWID;

CREATE INDEX delivery_due ON delivery (endpoint, due) WHERE due IS NOT NULL;
CREATE INDEX delivery_given_up ON delivery (crossing) WHERE due IS NULL;
CREATE INDEX delivery_of ON delivery (crossing);
