-- Changes of balances that are done once within a day, by the ids for that: where they are in the ledger.
CREATE TABLE once (
    customer    INTEGER NOT NULL,
    id          ANY NOT NULL,
    balance     INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (customer, id)
) STRICT, WITHOUT ROWID;

-- Finds those of more than a day ago, to forget them.
CREATE INDEX once_at ON once (at);
