-- How far each queue of settlements has been taken, for each customer: at or below is a repeat.
CREATE TABLE mark (
    customer    INTEGER NOT NULL,
    producer    BLOB NOT NULL,
    sequence    INTEGER NOT NULL,
    PRIMARY KEY (customer, producer)
) STRICT, WITHOUT ROWID;
