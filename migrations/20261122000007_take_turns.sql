alter table export
    add column priority text not null default 'interactive' check (priority in ('interactive', 'batch')),
    -- Its place among those not begun: the smallest goes first. Each tenant counts for itself from where the line
    -- stands, so that a long line of one tenant does not hold up another's single export.
    add column turn bigint not null default 0,
    -- Accepted, and no worker has had it in hand yet. Until then due_at is its deadline.
    add column unclaimed boolean not null default false;

-- What a claim reads of exports that no worker has had in hand; export_due has the rest, and these at their deadline.
create index export_unclaimed on export (turn, export_id) where unclaimed and claim is null and finished_at is null;
-- Where the line stands, and each tenant in it.
create index export_in_line on export (turn) where state = 'queued' and follows is null;
create index export_in_line_of_tenant on export (tenant, priority, turn) where state = 'queued' and follows is null;
-- Who waits for room, in the order in which they get it.
create index export_waiting_by_connection on export (connection_id, turn, export_id)
    where phase = 'waiting_for_slot' and follows is null and finished_at is null;
create index export_waiting_by_tenant on export (tenant, turn, export_id)
    where phase = 'waiting_for_slot' and waiting_reason = 'tenant_concurrency' and follows is null and finished_at is null;
-- Who waits for the same exclusive key, by turn.
create index export_by_exclusive_key on export (connection_id, exclusive_key, turn, export_id)
    where exclusive_key is not null and ticket is null and follows is null and finished_at is null;

-- The exports that are at work or wait for it, besides those that follow another: what is counted of them and looked for.
-- It changes a few times in an export's life, where indexes of export are written to by every claim and every release.
create table live_export (
    export_id uuid primary key references export on delete cascade,
    tenant text not null,
    connection_id uuid not null,
    plan_sha256 bytea,
    -- Counts against the limits of its tenant and its connection.
    is_running boolean not null
);
create index live_export_by_connection on live_export (connection_id, is_running);
create index live_export_running_by_tenant on live_export (tenant) where is_running;
create index live_export_by_plan on live_export (plan_sha256) where plan_sha256 is not null;
insert into live_export
    select export_id, tenant, connection_id, plan_sha256, state = 'running' from export where finished_at is null;
create function note_live_export() returns trigger language plpgsql as $$
begin
    if new.finished_at is null and new.follows is null then
        insert into live_export values (new.export_id, new.tenant, new.connection_id, new.plan_sha256, new.state = 'running')
        on conflict (export_id) do update set is_running = excluded.is_running;
    else
        delete from live_export where export_id = new.export_id;
    end if;
    return null;
end $$;
create trigger export_began after insert on export for each row execute function note_live_export();
create trigger export_lives after update on export for each row
    when (old.state is distinct from new.state or old.follows is distinct from new.follows)
    execute function note_live_export();

-- Indexes that held every live row and few that were ever asked for: each claim and each release wrote to them.
drop index export_labels;
create index export_labels on export using gin (labels jsonb_path_ops) where labels <> '{}';
drop index export_live_by_connection;
drop index export_live_by_destination;
create index export_live_by_destination on export (destination_id, delivery_path)
    where destination_id is not null and finished_at is null;
alter table export drop constraint export_callback_token_sha256_key;
create unique index export_by_callback_token on export (callback_token_sha256) where callback_token_sha256 is not null;

-- A notification makes its transaction's commit wait for all others that notify, so an export that is only one more in
-- the line does not: whoever works on the line looks at it again before resting.
create or replace function notify_export_due() returns trigger language plpgsql as $$
begin
    if new.unclaimed and exists (select from export where unclaimed and claim is null
                                     and finished_at is null and export_id <> new.export_id) then
        return null;
    end if;
    perform pg_notify('headgate_due', '');
    return null;
end $$;
drop trigger export_due_at_once on export;
create trigger export_due_at_once after insert or update of due_at, unclaimed on export for each row
    when (new.claim is null and new.finished_at is null and (new.unclaimed or new.due_at <= now()))
    execute function notify_export_due();
