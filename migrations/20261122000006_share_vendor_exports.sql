alter table export
    -- Digest of everything that decides what the result holds: exports with the same one may share the work. Null: shares
    -- with nobody.
    add column plan_sha256 bytea,
    -- The work it has part in, by the export that began it; null: its own. Stored objects lie below this name, and the
    -- ticket is sealed to it.
    add column run_id uuid,
    -- While live: the export that does the work for this one, which only waits.
    add column follows uuid,
    -- An export of the same tenant in the same run, to be shown.
    add column coalesced_with uuid,
    -- Set when another export's files were named as this one's, and only the delivery is left.
    add column stored_at timestamptz;

create index export_following on export (follows) where follows is not null and finished_at is null;
create index export_by_run on export (run_id, tenant, export_id) where run_id is not null;
create index export_reusable on export (plan_sha256, data_as_of desc)
    where plan_sha256 is not null and state = 'succeeded' and result_swept_at is null and result_deleted_at is null;

-- Whoever follows shows what the export it follows shows. Figures of progress alone are passed on every few seconds:
-- many may follow one.
create function show_followers() returns trigger language plpgsql as $$
begin
    update export f
    set state = new.state, phase = new.phase, waiting_reason = new.waiting_reason, attempt = new.attempt,
        retry_at = new.retry_at, records = new.records, bytes_read = new.bytes_read,
        bytes_written = new.bytes_written, files_done = new.files_done, files_total = new.files_total,
        warnings = new.warnings, vendor_status = new.vendor_status, vendor_reference = new.vendor_reference,
        data_as_of = new.data_as_of, started_at = greatest(new.started_at, case when new.started_at is not null then f.created_at end),
        last_progress_at = greatest(new.last_progress_at, f.created_at), version = f.version + 1
    where f.follows = new.export_id and f.finished_at is null and f.state in ('queued', 'running')
      and ((f.state, f.phase, f.waiting_reason, f.attempt, f.vendor_status, f.vendor_reference, f.data_as_of, f.warnings)
               is distinct from
           (new.state, new.phase, new.waiting_reason, new.attempt, new.vendor_status, new.vendor_reference,
            new.data_as_of, new.warnings)
           or f.last_progress_at < new.last_progress_at - interval '5 seconds');
    return null;
end $$;
create trigger export_leads after update on export for each row
    when (old.version is distinct from new.version and new.plan_sha256 is not null and new.follows is null
          and new.state in ('queued', 'running'))
    execute function show_followers();

-- Stored objects. Several manifests may name one; it may be removed when none does any more. Manifests are the count:
-- there is no number that could be wrong.
create table result_object (
    object_key text primary key,
    -- The run's folder, which is swept as a whole.
    folder text not null generated always as (split_part(object_key, '/', 1) || '/' || split_part(object_key, '/', 2)) stored,
    -- Set when the last manifest that named it is gone.
    unreferenced_at timestamptz
);
create index result_object_by_folder on result_object (folder);
create index result_object_to_remove on result_object (unreferenced_at) where unreferenced_at is not null;
delete from result_file f using export e where e.export_id = f.export_id and e.result_swept_at is not null;
insert into result_object (object_key) select object_key from result_file;

alter table result_file drop constraint result_file_object_key_key;
create index result_file_by_object on result_file (object_key);

create function note_result_objects() returns trigger language plpgsql as $$
begin
    insert into result_object (object_key) select distinct object_key from added on conflict do nothing;
    return null;
end $$;
create trigger result_file_added after insert on result_file referencing new table as added
    for each statement execute function note_result_objects();
-- Two who remove the last two manifests of one object take turns by its row, so that one of them sees it unreferenced.
create function release_result_objects() returns trigger language plpgsql as $$
begin
    perform 1 from result_object where object_key in (select object_key from removed) order by object_key for update;
    update result_object o set unreferenced_at = now()
    where o.object_key in (select object_key from removed)
      and not exists (select from result_file f where f.object_key = o.object_key);
    return null;
end $$;
create trigger result_file_removed after delete on result_file referencing old table as removed
    for each statement execute function release_result_objects();
-- The manifest of a result that is swept is not shown any more.
create function forget_swept_result() returns trigger language plpgsql as $$
begin
    delete from result_file where export_id = new.export_id;
    return null;
end $$;
create trigger export_swept after update of result_swept_at on export for each row
    when (old.result_swept_at is null and new.result_swept_at is not null)
    execute function forget_swept_result();
