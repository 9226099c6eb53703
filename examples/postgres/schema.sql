CREATE TABLE IF NOT EXISTS accounts (
    id    text   PRIMARY KEY,
    cents bigint NOT NULL CHECK (cents >= 0)
);
CREATE TABLE IF NOT EXISTS payouts (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text   NOT NULL REFERENCES accounts,
    cents   bigint NOT NULL CHECK (cents > 0),
    paid_at timestamptz NOT NULL DEFAULT now()
);
-- Not ON CONFLICT: the trigger that the program adds would see the rows before the conflict is found.
INSERT INTO accounts SELECT id, 100000 FROM (VALUES ('acme'), ('zeta')) AS known (id) WHERE NOT EXISTS (SELECT FROM accounts);
