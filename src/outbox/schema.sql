-- What waits, what was delivered and is kept for a time, and what was set aside.
CREATE TABLE entry (
    -- The order of delivery. Never used twice.
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
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

-- One row: what this file is called by its target.
CREATE TABLE producer (id TEXT NOT NULL) STRICT;
