-- An export that is asked for again and again.
create table schedule (
    schedule_id uuid primary key,
    tenant text not null,
    name text not null,
    created_by text not null,
    -- Who set the export last, and the connections that their token granted: the runs are made as they would make them.
    runs_as text not null,
    connections text[] not null,
    cron text not null,
    time_zone text not null,
    -- The body of a submission, whose window may be relative.
    export jsonb not null,
    -- As it was sent: an ISO 8601 duration, or null for what is known of the dataset.
    not_before text,
    catch_up text not null check (catch_up in ('none', 'last', 'all')),
    paused_at timestamptz,
    -- The time, as the cron line says it, of the oldest run that has not been dealt with; null when there is none to come.
    next_run_at timestamptz,
    -- When that run may begin: not before its data is there. Null while paused.
    due_at timestamptz,
    last_error jsonb,
    -- Runs in a row that could not be begun.
    failures integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (tenant, name),
    constraint paused_is_not_due check (paused_at is null or due_at is null),
    constraint due_has_a_run check (due_at is null or next_run_at is not null)
) with (fillfactor = 80);
create index schedule_due on schedule (due_at) where due_at is not null;
create index schedule_by_tenant on schedule (tenant, schedule_id desc);

-- What became of each run. Written with the export it began, so that a run begins once.
create table schedule_run (
    schedule_id uuid not null references schedule on delete cascade,
    run_at timestamptz not null,
    -- Of runs that were skipped together: the last of them.
    through timestamptz not null,
    outcome text not null check (outcome in ('started', 'skipped', 'failed')),
    at timestamptz not null default now(),
    export_id uuid,
    -- Why it was skipped.
    reason text,
    -- Why it could not be begun.
    error jsonb,
    primary key (schedule_id, run_at),
    constraint started_has_an_export check ((export_id is not null) = (outcome = 'started')),
    constraint skipped_has_a_reason check ((reason is not null) = (outcome = 'skipped')),
    constraint failed_says_why check ((error is not null) = (outcome = 'failed'))
);
create index schedule_run_by_age on schedule_run (at);

alter table export
    -- No foreign key: exports outlive a deleted schedule.
    add column schedule_id uuid,
    add column scheduled_for timestamptz,
    add constraint scheduled_has_both check ((schedule_id is null) = (scheduled_for is null));
create unique index export_by_schedule on export (schedule_id, scheduled_for) where schedule_id is not null;
create index export_live_by_schedule on export (schedule_id) where schedule_id is not null and finished_at is null;

-- Wakes those who begin runs: one run of a schedule lives at a time, so the next may begin now. Of what is due later
-- than a minute from now they find out themselves.
create function notify_schedule() returns trigger language plpgsql as $$
begin
    perform pg_notify('headgate_schedule', '');
    return null;
end $$;
create trigger scheduled_export_finished after update on export for each row
    when (new.schedule_id is not null and old.finished_at is null and new.finished_at is not null)
    execute function notify_schedule();
create trigger schedule_changed after insert or update of due_at on schedule for each row
    when (new.due_at <= now() + interval '1 minute') execute function notify_schedule();
