-- A named place of somebody else's object store or of a mounted folder, to which results are delivered.
create table destination (
    destination_id uuid primary key,
    name text not null unique,
    display_name text not null,
    url text not null,
    settings jsonb not null,
    -- As in connection. Without credentials of its own (version 0) the process's environment has them.
    key_id text not null,
    sealed_data_key bytea not null,
    credentials bytea,
    credential_version integer not null,
    health text not null default 'unknown' check (health in ('unknown', 'healthy', 'unhealthy')),
    health_detail text,
    health_checked_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint own_credentials_have_a_version check ((credentials is null) = (credential_version = 0))
);

alter table export
    -- No foreign key: exports outlive a deleted destination.
    add column destination_id uuid,
    -- Below the destination, ending with / unless empty.
    add column delivery_path text,
    -- Set when every result file is stored and named in result_file: only the delivery is left.
    add column staged_at timestamptz;
create index export_live_by_destination on export (destination_id, delivery_path) where finished_at is null;

-- Where a file was delivered to, besides the gateway's own store.
alter table result_file add column location text;
