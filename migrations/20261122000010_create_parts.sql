-- The parts of an export, each claimed, done and recorded on its own, so that all workers share one export: what is
-- asked for where the vendor has no job to follow (slices of a window, chunks of a list), and the vendor's files where
-- they are many. Takes the place of export_part, which stays for the version before and goes with the next one.
create table part (
    export_id uuid not null references export on delete cascade,
    -- A result has its parts in the order of these two. `number` counts from 1. `file` is 0 for what is asked for; the
    -- files of an answer with many take its place and count from 1.
    number integer not null,
    file integer not null,
    -- What the vendor's adapter wants to be given back; none for the files of a job.
    name text,
    -- Where one of the vendor's files is, sealed: it may grant access.
    locator bytea,
    -- As in export: when it is to be looked at, or the end of its lease. None while it waits for the parts before it,
    -- and once it is done or has failed.
    due_at timestamptz,
    claim uuid,
    claimed_by text,
    first_asked_at timestamptz,
    -- Failures in a row.
    failures integer not null default 0,
    vendor_status text,
    seen_ready boolean not null default false,
    -- Files that are stored already: a list of objects as in result_file.
    files jsonb not null default '[]',
    -- What of it is counted in the progress of the export.
    records bigint not null default 0,
    bytes_read bigint not null default 0,
    bytes_written bigint not null default 0,
    done_at timestamptz,
    -- Why it can never be done. The export fails for it.
    error jsonb,
    primary key (export_id, number, file)
) with (fillfactor = 70);

-- The only index a claim reads. Few parts of one export are in it at a time, however many there are.
create index part_due on part (due_at) where due_at is not null;
-- What is due next when a part makes room.
create index part_waiting on part (export_id, number, file) where due_at is null and done_at is null and error is null;
create index part_failed on part (export_id) where error is not null;

-- Wakes idle workers; a hint as headgate_due is.
create function notify_part_due() returns trigger language plpgsql as $$
begin
    perform pg_notify('headgate_part', '');
    return null;
end $$;
create trigger part_due_at_once after insert or update of due_at on part for each row
    when (new.claim is null and new.due_at <= now())
    execute function notify_part_due();
