-- One export job: what was asked, where it stands, and what a worker needs to go on.
create table export (
    export_id uuid primary key,
    tenant text not null,
    created_by text not null,
    -- No foreign key: exports outlive a deleted connection and keep its name.
    connection_id uuid not null,
    connection text not null,
    vendor text not null,
    dataset text not null,
    parameters jsonb not null,
    output jsonb not null,
    delivery jsonb not null,
    labels jsonb not null,

    state text not null default 'queued'
        check (state in ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    phase text,
    waiting_reason text,
    attempt integer not null default 1,
    retry_at timestamptz,
    retry_of uuid,

    records bigint not null default 0,
    bytes_read bigint not null default 0,
    bytes_written bigint not null default 0,
    files_done integer not null default 0,
    files_total integer,

    created_at timestamptz not null default now(),
    started_at timestamptz,
    last_progress_at timestamptz not null default now(),
    finished_at timestamptz,
    deadline_at timestamptz not null,

    error jsonb,
    warnings jsonb not null default '[]',
    vendor_status text,
    vendor_reference text,
    data_as_of timestamptz,
    result_expires_at timestamptz,
    result_deleted_at timestamptz,
    -- Set once the files of an expired or deleted result are gone from the object store.
    result_swept_at timestamptz,
    -- Grows with every change that a caller can see; the ETag.
    version bigint not null default 1,

    -- The engine. While nobody holds the export, due_at says when it is to be looked at; while a worker holds it,
    -- due_at is the end of its lease, so that a crashed worker's export is simply due again.
    due_at timestamptz not null default now(),
    claim uuid,
    claimed_by text,
    -- Something happened while a worker held it: look again at once when it is released.
    wake boolean not null default false,
    -- Failures in a row of the current step.
    failures integer not null default 0,
    -- How often the vendor accepted to begin.
    submissions integer not null default 0,
    -- Written before the vendor is asked to begin and cleared with its answer: set without a ticket means that the
    -- answer was lost.
    submit_intent_at timestamptz,
    submitted_at timestamptz,
    -- What the vendor gave to follow the export by, sealed.
    ticket bytea,
    -- Exports of one connection with the same key take turns at the vendor.
    exclusive_key text,
    callback_token_sha256 bytea unique,

    constraint finished_at_matches_state
        check ((finished_at is not null) = (state in ('succeeded', 'failed', 'cancelled'))),
    constraint failed_says_why check ((error is not null) = (state = 'failed')),
    constraint succeeded_has_a_life check ((result_expires_at is not null) = (state = 'succeeded'))
) with (fillfactor = 70);

-- The only index a claim reads; finished exports are not in it, so claims don't slow down as the table grows.
create index export_due on export (due_at) where finished_at is null;
create index export_by_tenant on export (tenant, export_id desc);
create index export_labels on export using gin (labels jsonb_path_ops);
create index export_live_by_connection on export (connection_id, export_id) where finished_at is null;
create index export_to_sweep on export (result_expires_at) where result_expires_at is not null and result_swept_at is null;

-- The second lock on final states; the first is the state machine in the code.
create function refuse_change_of_final_state() returns trigger language plpgsql as $$
begin
    raise exception 'export % is % and cannot become %', old.export_id, old.state, new.state
        using errcode = 'check_violation';
end $$;
create trigger final_states_stay before update on export for each row
    when (old.finished_at is not null and new.state is distinct from old.state)
    execute function refuse_change_of_final_state();

-- The life of an export, one row for each change of state or phase, written with the change itself.
create table export_event (
    export_id uuid not null references export on delete cascade,
    -- Counts from 1 within the export.
    seq bigint not null,
    at timestamptz not null default clock_timestamp(),
    state text not null,
    phase text,
    detail text,
    primary key (export_id, seq)
);
create function log_export_event() returns trigger language plpgsql as $$
begin
    insert into export_event (export_id, seq, state, phase, detail)
    select new.export_id, coalesce(max(seq), 0) + 1, new.state, new.phase,
           coalesce(new.error ->> 'code', new.waiting_reason)
    from export_event where export_id = new.export_id;
    return null;
end $$;
create trigger export_created after insert on export for each row execute function log_export_event();
create trigger export_moved after update on export for each row
    when (old.state is distinct from new.state or old.phase is distinct from new.phase)
    execute function log_export_event();

-- Wakes waiting callers (payload: the export) and idle workers. Only hints: both also poll.
create function notify_export_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('headgate_export', new.export_id::text);
    return null;
end $$;
create trigger export_changed after update on export for each row
    when (old.version is distinct from new.version) execute function notify_export_changed();
create function notify_export_due() returns trigger language plpgsql as $$
begin
    perform pg_notify('headgate_due', '');
    return null;
end $$;
create trigger export_due_at_once after insert or update of due_at on export for each row
    when (new.claim is null and new.finished_at is null and new.due_at <= now())
    execute function notify_export_due();

-- Each vendor exchange, sanitized.
create table vendor_exchange (
    vendor_exchange_id bigint generated always as identity primary key,
    export_id uuid not null references export on delete cascade,
    at timestamptz not null,
    action text not null,
    method text not null,
    target text not null,
    http_status integer,
    duration_ms bigint not null,
    decision text not null
);
create index vendor_exchange_by_export on vendor_exchange (export_id, vendor_exchange_id);

-- Room at the vendor: who is at it now. Held from before the submission until the vendor's files are ready.
create table vendor_slot (
    export_id uuid primary key references export on delete cascade,
    connection_id uuid not null,
    exclusive_key text,
    unique (connection_id, exclusive_key)
);

-- The manifest: written with the success of the export, so that a caller sees all files or none.
create table result_file (
    file_id uuid primary key,
    export_id uuid not null references export on delete cascade,
    position integer not null,
    name text not null,
    object_key text not null unique,
    media_type text not null,
    compression text not null,
    bytes bigint not null,
    records bigint,
    sha256 bytea not null,
    unique (export_id, position)
);

-- Kept as long as the export.
create table idempotency_key (
    tenant text not null,
    subject text not null,
    key text not null,
    body_sha256 bytea not null,
    export_id uuid not null references export on delete cascade,
    primary key (tenant, subject, key)
);
create index idempotency_key_by_export on idempotency_key (export_id);
