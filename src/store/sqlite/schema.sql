-- Amounts of counters, balances and ledger are in millionths; times of events in nanoseconds since
-- 1970, of windows in seconds. The views below say all of it in plain units.

CREATE TABLE customer (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    -- What is known of the customer beyond usage; null when nothing is.
    about    TEXT,
    -- Since when the counters of some periods are whole, where the customer's windows have moved.
    since    TEXT
) STRICT;

-- What events of one kind have in common: their type, and the names of their values and dimensions.
CREATE TABLE kind (
    id          INTEGER PRIMARY KEY,
    event_type  TEXT NOT NULL,
    names       TEXT NOT NULL,
    dimensions  TEXT NOT NULL,
    -- Whether they take other events back: their amounts are below zero.
    reverses    INTEGER NOT NULL,
    UNIQUE (event_type, names, dimensions, reverses)
) STRICT;

-- One row for each use. The id is 16 bytes where it is a UUID, and text where a caller gave another.
CREATE TABLE event (
    sequence    INTEGER PRIMARY KEY,
    id          ANY NOT NULL,
    customer    INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    amounts     TEXT NOT NULL,
    texts       TEXT NOT NULL
) STRICT;

-- Tells a repeat from a new event, in the transaction that would count it.
CREATE UNIQUE INDEX event_id ON event (id, customer);

-- A counter is what a meter, the dimensions of a limit and a period make of events.
CREATE TABLE counter (
    number      INTEGER PRIMARY KEY,
    definition  TEXT NOT NULL UNIQUE,
    -- Its history up to this time is not whole: it was counted when events were gone already.
    since       INTEGER
) STRICT;

-- Its value for one customer in one window.
CREATE TABLE usage (
    customer    INTEGER NOT NULL,
    counter     INTEGER NOT NULL,
    ends        INTEGER NOT NULL,
    starts      INTEGER NOT NULL,
    value       INTEGER NOT NULL,
    -- For counters that keep the latest value: when that was.
    latest      INTEGER,
    PRIMARY KEY (customer, counter, ends)
) STRICT, WITHOUT ROWID;

-- Finds the windows that have not ended, when the file is opened, and those that have, to drop them.
CREATE INDEX usage_ends ON usage (ends);

-- Which counters count everything, for everybody (no customer) or for one: others are counted again
-- from the events before they are used.
CREATE TABLE counted (
    customer    TEXT PRIMARY KEY,
    counters    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE balance (
    id          INTEGER PRIMARY KEY,
    customer    INTEGER NOT NULL,
    name        TEXT NOT NULL,
    current     INTEGER NOT NULL,
    -- Terms of the customer's own; null where they are everybody's.
    unit        TEXT,
    minimum     INTEGER,
    -- What it held before the first row of the ledger.
    opening     INTEGER NOT NULL,
    UNIQUE (customer, name)
) STRICT;

-- Every change of every balance. A charge has the id of its event.
CREATE TABLE ledger (
    balance         INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    id              ANY NOT NULL,
    amount          INTEGER NOT NULL,
    balance_after   INTEGER NOT NULL,
    at              INTEGER NOT NULL,
    description     TEXT,
    reference       TEXT,
    PRIMARY KEY (balance, sequence)
) STRICT, WITHOUT ROWID;

-- A payment is credited once, for ever.
CREATE UNIQUE INDEX ledger_payment ON ledger (balance, reference)
WHERE reference IS NOT NULL AND amount > 0;

-- What is recorded of a request that nobody is left to settle, where that is asked for: as an event,
-- with its charge. A row is there while the request runs.
CREATE TABLE hold (
    id          ANY NOT NULL,
    customer    INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    amounts     TEXT NOT NULL,
    texts       TEXT NOT NULL,
    balance     TEXT,
    charge      INTEGER,
    PRIMARY KEY (id, customer)
) STRICT, WITHOUT ROWID;

-- What events came to, by quarters of an hour, that were let go since: the names are those of the
-- kind.
CREATE TABLE rollup (
    customer    INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    starts      INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    amounts     TEXT NOT NULL,
    PRIMARY KEY (customer, kind, starts)
) STRICT, WITHOUT ROWID;

-- Alerts that were told.
CREATE TABLE alert (
    customer    INTEGER NOT NULL,
    limit_id    TEXT NOT NULL,
    ends        INTEGER NOT NULL,
    percent     INTEGER NOT NULL,
    PRIMARY KEY (customer, limit_id, ends, percent)
) STRICT, WITHOUT ROWID;

-- Meters and limits that were added while the program ran.
CREATE TABLE definition (
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

-- What there is one of: the number of the last group that was committed and the place of the newest
-- event, as of a group of more than events (each event since is one more), the place of the newest
-- ledger row, the time of the newest event that was let go, and how many requests ran when that was
-- last noted (0 where each has a row in hold). A backup that was not opened yet says so (copied).
CREATE TABLE state (
    name        TEXT PRIMARY KEY,
    value       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE VIEW events AS
SELECT
    e.sequence,
    CASE typeof(e.id) WHEN 'blob' THEN lower(hex(e.id)) ELSE e.id END AS id,
    c.name AS customer,
    k.event_type,
    k.reverses,
    datetime(e.at / 1000000000, 'unixepoch') AS at,
    (SELECT json_group_object(n.value, a.value)
     FROM json_each(k.names) n JOIN json_each(e.amounts) a ON a.key = n.key) AS amounts,
    (SELECT json_group_object(n.value, t.value)
     FROM json_each(k.dimensions) n JOIN json_each(e.texts) t ON t.key = n.key) AS dimensions
FROM event e JOIN customer c ON c.id = e.customer JOIN kind k ON k.id = e.kind;

CREATE VIEW rollups AS
SELECT
    c.name AS customer,
    k.event_type,
    datetime(r.starts, 'unixepoch') AS starts,
    iif(k.reverses, -r.events, r.events) AS events,
    (SELECT json_group_object(n.value, a.value)
     FROM json_each(k.names) n JOIN json_each(r.amounts) a ON a.key = n.key) AS amounts
FROM rollup r JOIN customer c ON c.id = r.customer JOIN kind k ON k.id = r.kind;

CREATE VIEW usages AS
SELECT
    c.name AS customer,
    n.definition AS counter,
    CASE WHEN u.ends < 253402300799 THEN datetime(u.starts, 'unixepoch') END AS starts,
    CASE WHEN u.ends < 253402300799 THEN datetime(u.ends, 'unixepoch') END AS ends,
    u.value / 1e6 AS value
FROM usage u JOIN customer c ON c.id = u.customer JOIN counter n ON n.number = u.counter;

CREATE VIEW transactions AS
SELECT
    l.sequence,
    c.name AS customer,
    b.name AS balance,
    CASE WHEN l.amount > 0 THEN 'credit' ELSE 'debit' END AS type,
    abs(l.amount) / 1e6 AS amount,
    l.balance_after / 1e6 AS balance_after,
    datetime(l.at / 1000000000, 'unixepoch') AS at,
    CASE typeof(l.id) WHEN 'blob' THEN lower(hex(l.id)) ELSE l.id END AS id,
    l.description,
    l.reference
FROM ledger l JOIN balance b ON b.id = l.balance JOIN customer c ON c.id = b.customer;

-- Explains a balance: every change with the use that caused it. The id is that of the hold, of the
-- event and of the transaction; a request's own id is there where it is recorded as the dimension
-- request_id.
CREATE VIEW audit AS
SELECT
    l.sequence,
    c.name AS customer,
    b.name AS balance,
    CASE WHEN l.amount > 0 THEN 'credit' ELSE 'debit' END AS type,
    abs(l.amount) / 1e6 AS amount,
    l.balance_after / 1e6 AS balance_after,
    CASE typeof(l.id) WHEN 'blob' THEN lower(hex(l.id)) ELSE l.id END AS id,
    v.event_type,
    v.amounts AS used,
    v.dimensions,
    v.dimensions ->> 'request_id' AS request_id,
    l.description,
    l.reference
FROM ledger l
JOIN balance b ON b.id = l.balance
JOIN customer c ON c.id = b.customer
LEFT JOIN event e ON e.id = l.id AND e.customer = b.customer
LEFT JOIN events v ON v.sequence = e.sequence;
