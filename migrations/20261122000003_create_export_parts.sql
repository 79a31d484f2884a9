-- What an export is asked for in, where its vendor has no job to follow: slices of a window, chunks of a list. A part
-- that is done is never asked for again.
create table export_part (
    export_id uuid not null references export on delete cascade,
    -- Counts from 1; results come in this order.
    number integer not null,
    -- What the vendor's adapter wants to be given back.
    part text not null,
    -- While the part is pending: when to ask again.
    due_at timestamptz not null default now(),
    first_asked_at timestamptz,
    -- Failures in a row.
    failures integer not null default 0,
    vendor_status text,
    seen_ready boolean not null default false,
    -- Files of the part that are stored already: a list of objects as in result_file.
    files jsonb not null default '[]',
    done_at timestamptz,
    primary key (export_id, number)
) with (fillfactor = 70);
create index export_part_pending on export_part (export_id, due_at) where done_at is null;

-- Set when the vendor called back.
alter table export add column called_back_at timestamptz;
