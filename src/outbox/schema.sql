-- What waits, what was delivered and is kept for a time, and what was set aside.
CREATE TABLE entry (
    -- The order of delivery. Never used twice.
    sequence INTEGER PRIMARY KEY,
    customer TEXT NOT NULL,
    -- 0 waits, 1 was delivered, 2 was set aside.
    state INTEGER NOT NULL,
    -- It is not known that the target has a hold for it.
    unsure INTEGER NOT NULL,
    -- Nanoseconds since the Unix epoch: when it was appended, when it was delivered or set aside.
    appended INTEGER NOT NULL,
    moved INTEGER,
    -- Why it was set aside.
    reason TEXT,
    -- JSON; amounts in millionths, times in nanoseconds.
    body TEXT NOT NULL
) STRICT;

-- One row.
CREATE TABLE state (
    -- What this file is called by its target.
    producer TEXT NOT NULL,
    -- The last number that was given: as its sequence to an entry, or to a commit without a new one.
    last INTEGER NOT NULL
) STRICT;
