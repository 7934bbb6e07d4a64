"""Functions for people who write SQL: ``enqueue`` with the checks that Python makes, ids, keys, masked arguments.

``enqueue`` runs with its owner's rights, so that a role may create tasks and do nothing else; its search path is fixed
and whoever may call it is granted that by name.
"""

from __future__ import annotations

__all__ = ["SQL_FUNCTIONS", "SQL_SIGNATURES"]

SQL_SIGNATURES = (
    "enqueue(text, jsonb, text, text, interval, timestamptz, interval, text, interval, int, text[], jsonb, interval)",
    "checked_seconds(text, interval, boolean)",
    "checked_meta(jsonb, text[], jsonb, interval)",
    "args_hash(jsonb)",
    "canonical(jsonb)",
    "canonical_text(text)",
    "canonical_number(text)",
    "masked(bytea, jsonb, smallint, smallint)",
    "id_at(timestamptz)",
    "uuid7()",
)

# RFC 9562 version 7 for every version of PostgreSQL: 48 bits of milliseconds, 12 bits of what is left of them, and the
# last half of a random UUID, whose variant bits are already there.
_IDS = """
CREATE FUNCTION {s}.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $uuid7$
    SELECT CAST(encode(
        int8send((us / 1000) << 16 | 28672 | (us % 1000) * 4096 / 1000)
            || substring(uuid_send(gen_random_uuid()) FROM 9), 'hex') AS uuid)
    FROM (SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS us) AS clock
$uuid7$;
CREATE FUNCTION {s}.id_at(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $id_at$
    SELECT CAST(lpad(to_hex(CAST(floor(extract(epoch FROM moment) * 1000) AS bigint)), 12, '0')
                || '70008000000000000000' AS uuid)
$id_at$;
"""

# What Python's json.dumps(sort_keys=True, separators=(",", ":")) writes: a key that was taken in Python is found again
# from SQL, and the other way round.
_CANONICAL = """
CREATE FUNCTION {s}.canonical_text(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $text$
DECLARE
    v_quoted text := CAST(to_json(value) AS text); v_done text := ''; v_char text; v_code int;
BEGIN
    IF v_quoted !~ '[^ -~]' THEN
        RETURN v_quoted;
    END IF;
    FOREACH v_char IN ARRAY string_to_array(v_quoted, NULL) LOOP
        v_code := ascii(v_char);
        v_done := v_done || CASE
            WHEN v_code < 127 THEN v_char
            WHEN v_code < 65536 THEN '\\u' || lpad(to_hex(v_code), 4, '0')
            ELSE '\\u' || to_hex(55296 + ((v_code - 65536) >> 10)) || '\\u' || to_hex(56320 + (v_code & 1023)) END;
    END LOOP;
    RETURN v_done;
END $text$;
CREATE FUNCTION {s}.canonical_number(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET extra_float_digits = 1 AS $number$
DECLARE
    v_float text; v_digits text;
BEGIN
    IF strpos(value, '.') = 0 THEN
        RETURN value;
    END IF;
    v_float := CAST(CAST(value AS float8) AS text);
    IF v_float LIKE '%e+15' THEN  -- Python writes exponents from 16 on, PostgreSQL from 15
        v_digits := translate(split_part(v_float, 'e', 1), '.-', '');
        v_digits := v_digits || repeat('0', 16 - length(v_digits));
        RETURN CASE WHEN v_float LIKE '-%' THEN '-' ELSE '' END || left(v_digits, 16) || '.'
            || coalesce(nullif(substr(v_digits, 17), ''), '0');
    END IF;
    RETURN v_float || CASE WHEN v_float ~ '[.e]' THEN '' ELSE '.0' END;
END $number$;
CREATE FUNCTION {s}.canonical(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $json$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'object' THEN '{' || coalesce((
            SELECT string_agg(
                {s}.canonical_text(e.key) || ':' || {s}.canonical(e.value), ',' ORDER BY e.key COLLATE "C")
            FROM jsonb_each(value) AS e), '') || '}'
        WHEN 'array' THEN '[' || coalesce((
            SELECT string_agg({s}.canonical(e.value), ',' ORDER BY e.n)
            FROM jsonb_array_elements(value) WITH ORDINALITY AS e (value, n)), '') || ']'
        WHEN 'string' THEN {s}.canonical_text(value #>> '{}')
        WHEN 'number' THEN {s}.canonical_number(value #>> '{}')
        ELSE CAST(value AS text) END;
END $json$;
CREATE FUNCTION {s}.args_hash(args jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $hash$
    SELECT sha256(convert_to({s}.canonical(args), 'UTF8'))
$hash$;
"""

# The rules of dispatcher.masking: what cannot be told apart is hidden as a whole.
_MASKED = """
CREATE FUNCTION {s}.masked(value bytea, secret jsonb, codec smallint, key_id smallint) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $masked$
#variable_conflict use_variable
DECLARE
    v_data jsonb; v_secret boolean := coalesce(jsonb_array_length(secret) > 0, false);
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    ELSIF codec <> 1 OR key_id IS NOT NULL THEN
        RETURN '"**********"';
    END IF;
    BEGIN
        v_data := CAST(convert_from(value, 'UTF8') AS jsonb);
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        RETURN CASE WHEN v_secret THEN jsonb '"**********"'
            ELSE to_jsonb('<' || length(value) || ' unreadable bytes>') END;
    END;
    IF NOT v_secret THEN
        RETURN v_data;
    ELSIF jsonb_typeof(v_data) <> 'object' THEN
        RETURN '"**********"';
    END IF;
    RETURN v_data || coalesce((
        SELECT jsonb_object_agg(h.name, '**********')
        FROM (SELECT DISTINCT split_part(n, '.', 1) FROM jsonb_array_elements_text(secret) AS e (n)) AS h (name)
        WHERE v_data ? h.name), '{}');
END $masked$;
"""

# Every option is checked here as dispatcher.options does it; SQLSTATE DS005 names the option and the cure.  Options
# that the call leaves out are those that a worker registered for the type, else the defaults of Python.
_CHECKS = """
CREATE FUNCTION {s}.checked_seconds(option text, span interval, zero boolean) RETURNS float8
LANGUAGE plpgsql IMMUTABLE AS $seconds$
DECLARE
    v_seconds float8;
BEGIN
    IF span IS NULL THEN
        RETURN NULL;
    END IF;
    v_seconds := extract(epoch FROM span);
    IF v_seconds < 0 OR (v_seconds = 0 AND NOT zero) THEN
        RAISE EXCEPTION '% must be % 0 s, not %', option, CASE WHEN zero THEN 'at least' ELSE 'more than' END, span
            USING ERRCODE = 'DS005', HINT = 'Write a time span, for example interval ''5 minutes''.';
    ELSIF v_seconds > 3162240000 THEN
        RAISE EXCEPTION '% must be at most 100 years, not %', option, span
            USING ERRCODE = 'DS005', HINT = 'Write a time span, for example interval ''5 minutes''.';
    END IF;
    RETURN v_seconds;
END $seconds$;
CREATE FUNCTION {s}.checked_meta(secret jsonb, tags text[], headers jsonb, timeout interval) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $meta$
#variable_conflict use_variable
DECLARE
    v_meta jsonb := '{}'; v_seconds float8 := {s}.checked_seconds('timeout', timeout, false); v_tag text;
BEGIN
    FOREACH v_tag IN ARRAY coalesce(tags, '{}') LOOP
        IF coalesce(length(v_tag), 0) NOT BETWEEN 1 AND 200 THEN
            RAISE EXCEPTION 'each of tags must have 1 to 200 characters, not %', coalesce(length(v_tag), 0)
                USING ERRCODE = 'DS005', HINT = 'Leave out empty tags and NULLs.';
        END IF;
    END LOOP;
    IF cardinality(tags) > 0 THEN
        v_meta := jsonb_build_object('tags', (
            SELECT jsonb_agg(d.tag ORDER BY d.n)
            FROM (SELECT t.tag, min(t.n) FROM unnest(tags) WITH ORDINALITY AS t (tag, n) GROUP BY 1) AS d (tag, n)));
    END IF;
    IF (CASE WHEN jsonb_typeof(headers) <> 'object' THEN true
             ELSE EXISTS (SELECT FROM jsonb_each(headers) AS h WHERE jsonb_typeof(h.value) <> 'string') END) THEN
        RAISE EXCEPTION 'headers must be a JSON object of text to text'
            USING ERRCODE = 'DS005', HINT = 'Write for example ''{"trace": "abc"}''.';
    ELSIF headers <> '{}' THEN
        v_meta := v_meta || jsonb_build_object('headers', headers);
    END IF;
    IF v_seconds IS NOT NULL THEN
        v_meta := v_meta || jsonb_build_object('timeout', v_seconds);
    END IF;
    IF jsonb_array_length(secret) > 0 THEN
        v_meta := v_meta || jsonb_build_object('secret', secret);
    END IF;
    RETURN nullif(v_meta, '{}');
END $meta$;
"""

_ENQUEUE = """
CREATE FUNCTION {s}.enqueue(
    name text, args jsonb DEFAULT '{}', queue text DEFAULT NULL, lane text DEFAULT NULL, delay interval DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, expires interval DEFAULT NULL, key text DEFAULT NULL,
    key_ttl interval DEFAULT NULL, max_attempts int DEFAULT NULL, tags text[] DEFAULT NULL,
    headers jsonb DEFAULT NULL, timeout interval DEFAULT NULL, OUT id uuid, OUT created boolean
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $enqueue$
#variable_conflict use_variable
DECLARE
    v_args text := CAST(args AS text); v_known jsonb; v_meta jsonb; v_flags int := 0; v_wrong text;
    v_queue text; v_lane text; v_tries int; v_limit int;
BEGIN
    SELECT t.options INTO v_known FROM {s}.types AS t WHERE t.name = name;
    key := coalesce(key, v_known ->> 'key');
    key_ttl := coalesce(key_ttl, make_interval(secs => CAST(v_known ->> 'key_ttl' AS float8)));
    expires := coalesce(expires, make_interval(secs => CAST(v_known ->> 'expires' AS float8)));
    tags := coalesce(tags, ARRAY(SELECT e.tag FROM jsonb_array_elements_text(v_known -> 'tags') AS e (tag)));
    headers := coalesce(headers, v_known -> 'headers');
    IF run_at IS NULL THEN
        delay := coalesce(delay, make_interval(secs => CAST(v_known ->> 'delay' AS float8)));
    END IF;
    v_queue := coalesce(queue, v_known ->> 'queue', 'default');
    v_lane := coalesce(lane, v_known ->> 'lane', 'default');
    v_tries := coalesce(max_attempts, CAST(v_known ->> 'max_attempts' AS int), __TRIES__);
    v_limit := coalesce(CAST(v_known ->> 'args_limit' AS int), __LIMIT__);
    v_wrong := CASE
        WHEN name IS NULL OR length(name) NOT BETWEEN 1 AND 200 THEN 'name must be text of 1 to 200 characters'
        WHEN jsonb_typeof(args) IS DISTINCT FROM 'object' THEN 'args must be a JSON object by parameter name'
        WHEN octet_length(v_args) > v_limit
            THEN format('the arguments of %L are %s bytes, over the limit of %s', name, octet_length(v_args), v_limit)
        WHEN v_queue !~ '^[A-Za-z0-9_-]{1,64}$' THEN 'queue must be 1 to 64 letters, digits, ''_'' or ''-'''
        WHEN v_lane !~ '^[A-Za-z0-9_-]{1,64}$' THEN 'lane must be 1 to 64 letters, digits, ''_'' or ''-'''
        WHEN key IS NOT NULL AND length(key) NOT BETWEEN 1 AND 200 THEN 'key must have 1 to 200 characters'
        WHEN v_tries NOT BETWEEN 1 AND 32767 THEN 'max_attempts must be 1 to 32767'
        WHEN delay IS NOT NULL AND run_at IS NOT NULL THEN 'delay and run_at exclude each other: give one'
        WHEN NOT isfinite(run_at) THEN 'run_at must be a moment, not infinity' END;
    IF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', v_wrong USING ERRCODE = 'DS005',
            HINT = 'enqueue(name, args, queue =>, lane =>, delay =>, run_at =>, expires =>, key =>, key_ttl =>,'
                ' max_attempts =>, tags =>, headers =>, timeout =>)';
    END IF;
    v_meta := {s}.checked_meta((
        SELECT jsonb_agg(n) FROM jsonb_array_elements_text(v_known -> 'secret') AS e (n)
    ), tags, headers, timeout);
    v_flags := CASE WHEN key IS NOT NULL THEN 6 WHEN v_meta ? 'tags' THEN 4 ELSE 0 END
        | CASE WHEN v_known -> 'secret_result' = 'true' THEN 8 ELSE 0 END;
    SELECT c.task_id, c.created INTO id, created FROM {s}.create_task(
        {s}.uuid7(), name, v_queue, v_lane, convert_to(v_args, 'UTF8'), v_tries, v_flags,
        run_at, {s}.checked_seconds('delay', delay, true), {s}.checked_seconds('expires', expires, false),
        CAST(v_meta AS text), key, CASE WHEN key IS NOT NULL THEN {s}.args_hash(args) END,
        {s}.checked_seconds('key_ttl', key_ttl, false), true) AS c;
END $enqueue$;
"""

_TRIES = 5
_LIMIT = 1024 * 1024

SQL_FUNCTIONS = (
    _IDS,
    _CANONICAL,
    _MASKED,
    _CHECKS,
    _ENQUEUE.replace("__TRIES__", str(_TRIES)).replace("__LIMIT__", str(_LIMIT)),
    "".join(f"REVOKE ALL ON FUNCTION {{s}}.{SQL_SIGNATURES[0]} FROM PUBLIC;\n"),
)
"""The statements that create them; ``{s}`` still stands for the schema."""
