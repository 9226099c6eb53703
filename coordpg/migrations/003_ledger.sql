-- The outcome of each operation, written in the transaction of its effects: the primary key is what makes them take
-- place once. Rows are written once and deleted when their time has come; the index is for that.
CREATE TABLE @schema.ledger (
    completed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    token        bigint      NOT NULL,
    attempt      integer     NOT NULL,
    failed       boolean     NOT NULL,
    owner        bytea       NOT NULL, -- as in fences
    scope        bytea       NOT NULL,
    id           bytea       NOT NULL,
    resource     bytea       NOT NULL,
    fingerprint  bytea       NOT NULL,
    payload      bytea       NOT NULL,
    PRIMARY KEY (scope, id, resource)
);
CREATE INDEX ledger_expires_at ON @schema.ledger (expires_at);

CREATE TABLE @schema.outbox (
    seq        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token      bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic      text        NOT NULL,
    scope      bytea       NOT NULL,
    id         bytea       NOT NULL,
    resource   bytea       NOT NULL,
    payload    bytea       NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- The first statement of an operation on a resource: who grants, the fence, then whether the ledger has its outcome.
-- The order matters: who waited at the fence must see what the one before has left. _run is a lock that is held until the transaction
-- ends, for whoever has to know that it has. _idle is for how many ms the transaction may
-- stand still between statements, as a paused client must not keep its locks for ever; unless it is _strict, a limit that the session has
-- by itself stands. Operations without a resource have a statement of their own in session.go, which costs half of this.
CREATE FUNCTION @schema.open(_scope bytea, _id bytea, _resource bytea, _token bigint, _owner bytea, _run bigint, _idle text, _strict boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    _void text;
BEGIN
    _void := pg_advisory_xact_lock_shared(1869505381, hashtext('@schema'))::text; -- as stay does
    IF pg_sequence_last_value('@schema.side') % 2 = 0 THEN
        PERFORM @schema.stay(true);
    END IF;
    _void := pg_advisory_xact_lock_shared(_run)::text;
    IF _strict OR current_setting('idle_in_transaction_session_timeout') = '0' THEN
        _void := set_config('idle_in_transaction_session_timeout', _idle, true);
    END IF;
    INSERT INTO @schema.fences AS f (resource, token, owner, admitted) -- as admit does
    VALUES (_resource, _token, _owner, pg_current_xact_id())
    ON CONFLICT (resource) DO UPDATE
        SET token = excluded.token, owner = excluded.owner, admitted = excluded.admitted, seen_at = excluded.seen_at
        WHERE f.token < excluded.token OR f.token = excluded.token AND f.owner = excluded.owner;
    IF NOT FOUND THEN
        PERFORM @schema.admit(_resource, _token, _owner);
    END IF;
    RETURN EXISTS (SELECT FROM @schema.ledger WHERE scope = _scope AND id = _id AND resource = _resource);
END $$;

-- A token of this database's: the clock's, as in Redis, and above what the resource has seen.
CREATE FUNCTION @schema.mint(_resource bytea) RETURNS bigint LANGUAGE sql AS $$
    SELECT greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT token + 1 FROM @schema.fences WHERE resource = _resource))
$$;

-- The same where this database grants: the lease is the transaction itself, by a lock on the key's domain. _wait_ms is for
-- how long to wait for another holder. A token of 0 says that there still is one. _waited_us is how long all of it has taken: the lease begins
-- after that.
CREATE FUNCTION @schema.open_alone(
    _scope bytea, _id bytea, _resource bytea, _domain bigint, _owner bytea, _run bigint, _idle_ms bigint, _wait_ms bigint,
    OUT _done boolean, OUT _token bigint, OUT _waited_us bigint
) LANGUAGE plpgsql AS $$
DECLARE
    _held  boolean;
    _begun timestamptz := clock_timestamp();
BEGIN
    _token := 0;
    _done := false;
    PERFORM @schema.stay(false);
    PERFORM pg_advisory_xact_lock_shared(_run);
    PERFORM set_config('idle_in_transaction_session_timeout', _idle_ms::text, true);
    _held := pg_try_advisory_xact_lock(_domain);
    IF NOT _held AND _wait_ms > 0 THEN
        DECLARE
            _before text := current_setting('lock_timeout');
        BEGIN
            PERFORM set_config('lock_timeout', _wait_ms::text, true);
            PERFORM pg_advisory_xact_lock(_domain);
            PERFORM set_config('lock_timeout', _before, true);
            _held := true;
        EXCEPTION WHEN lock_not_available THEN
            NULL; -- the setting is rolled back with the block
        END;
    END IF;
    _done := EXISTS (SELECT FROM @schema.ledger WHERE scope = _scope AND id = _id AND resource = _resource);
    IF _done OR NOT _held THEN
        RETURN;
    END IF;
    _token := @schema.mint(_resource);
    IF _resource <> '' THEN
        PERFORM @schema.admit(_resource, _token, _owner);
    END IF;
    _waited_us := extract(epoch FROM clock_timestamp() - _begun) * 1000000;
END $$;

-- The last statement of an operation that was not opened here, or has events: when its outcome was written, which stands once the transaction commits, and whether that was
-- now, or this grant had written the same before. _redis is whose grant it is; null after open, which has asked who grants, and
-- the fence.
CREATE FUNCTION @schema.complete(
    _redis boolean, _scope bytea, _id bytea, _resource bytea, _token bigint, _owner bytea, _attempt integer,
    _fingerprint bytea, _failed boolean, _payload bytea, _keep_ms bigint, _topics text[], _payloads bytea[],
    OUT _first boolean, OUT _at timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    IF _redis IS NOT NULL THEN
        PERFORM @schema.stay(_redis);
        IF _resource <> '' THEN
            PERFORM @schema.admit(_resource, _token, _owner);
        END IF;
    END IF;
    INSERT INTO @schema.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload)
    VALUES (clock_timestamp() + _keep_ms * interval '1 millisecond', _token, _attempt, _failed, _owner, _scope, _id, _resource, _fingerprint, _payload)
    ON CONFLICT (scope, id, resource) DO NOTHING
    RETURNING completed_at INTO _at;
    _first := FOUND;
    IF NOT _first THEN
        SELECT completed_at INTO _at FROM @schema.ledger
        WHERE scope = _scope AND id = _id AND resource = _resource AND token = _token AND owner = _owner AND failed = _failed AND payload = _payload;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'ON002', MESSAGE = 'the operation has its outcome already',
                HINT = 'Roll back; coordpg.Recover or coordpg.Lookup has the outcome.';
        END IF;
    ELSIF cardinality(_topics) > 0 THEN
        INSERT INTO @schema.outbox (token, topic, scope, id, resource, payload)
        SELECT _token, e.topic, _scope, _id, _resource, e.payload
        FROM unnest(_topics, _payloads) WITH ORDINALITY AS e (topic, payload, n) ORDER BY e.n;
        PERFORM pg_notify('@channel', '');
    END IF;
END $$;

-- The first statement of a relay's transaction; a token of 0 asks for one of this database's.
CREATE FUNCTION @schema.relay(_redis boolean, _resource bytea, _token bigint, _owner bytea, _idle_ms bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _mine bigint := _token;
BEGIN
    PERFORM @schema.stay(_redis);
    PERFORM set_config('idle_in_transaction_session_timeout', _idle_ms::text, true);
    IF _mine = 0 THEN
        _mine := @schema.mint(_resource);
    END IF;
    PERFORM @schema.admit(_resource, _mine, _owner);
    RETURN _mine;
END $$;
