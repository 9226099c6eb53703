-- Who grants: Redis where the value is odd, this database alone where it is even. It is a sequence because every
-- transaction reads its newest value, whatever its snapshot shows; it is set, never drawn from, because values
-- that are drawn are logged ahead and a crash skips some.
CREATE SEQUENCE @schema.side;
SELECT setval('@schema.side', 1);

CREATE TABLE @schema.standby (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    away_at     timestamptz NOT NULL DEFAULT '-infinity', -- when somebody last could not reach Redis
    pinned      boolean     NOT NULL DEFAULT false,       -- taken over by hand: nobody hands back by itself
    switched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason      text        NOT NULL DEFAULT 'installed'
);
INSERT INTO @schema.standby DEFAULT VALUES;

CREATE FUNCTION @schema.redis_grants() RETURNS boolean LANGUAGE sql AS $$ SELECT pg_sequence_last_value('@schema.side') % 2 = 1 $$;

-- Makes sure that the grants of this side count until the transaction ends: a switch waits for it. What is admitted in one that this
-- database has granted has a grant of this database's.
CREATE FUNCTION @schema.stay(_redis boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1869505381, hashtext('@schema'));
    IF @schema.redis_grants() <> _redis THEN
        RAISE EXCEPTION USING ERRCODE = 'ON003',
            MESSAGE = CASE WHEN _redis THEN 'this database grants alone until Redis is back' ELSE 'Redis grants again' END;
    END IF;
    IF NOT _redis THEN
        PERFORM set_config('coordpg.alone', 'on', true);
    END IF;
END $$;

-- Hands over, once every transaction of the other side has ended. _calm_ms is null for a switch by hand; otherwise it is for how
-- long everybody must have reached Redis before that grants again, and the wait for those transactions is short: new ones queue behind
-- it. Returns whether anything changed. The sequence is set last, as no rollback takes that back.
CREATE FUNCTION @schema.switch(_redis boolean, _reason text, _calm_ms bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF _calm_ms IS NOT NULL THEN
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    PERFORM pg_advisory_xact_lock(1869505381, hashtext('@schema'));
    IF _calm_ms IS NULL THEN
        UPDATE @schema.standby SET pinned = NOT _redis;
    ELSIF _redis AND EXISTS (
        SELECT FROM @schema.standby WHERE pinned OR away_at > clock_timestamp() - _calm_ms * interval '1 millisecond'
    ) THEN
        RETURN false;
    END IF;
    IF @schema.redis_grants() = _redis THEN
        RETURN false;
    END IF;
    UPDATE @schema.standby SET switched_at = clock_timestamp(), reason = _reason,
        away_at = CASE WHEN _redis OR _calm_ms IS NULL THEN away_at ELSE clock_timestamp() END;
    PERFORM setval('@schema.side', (SELECT last_value + 1 FROM @schema.side));
    RETURN true;
END $$;
