-- A vendor account. Callers use its name and never see inside it.
create table connection (
    connection_id uuid primary key,
    name text not null unique,
    vendor text not null,
    display_name text not null,
    settings jsonb not null,
    -- column of the unified schema -> vendor property
    mapping jsonb not null,
    -- Envelope encryption: the data key, sealed under the master key named by key_id, seals the credentials and the
    -- tickets of this connection's exports.
    key_id text not null,
    sealed_data_key bytea not null,
    credentials bytea not null,
    credential_version integer not null default 1,
    health text not null default 'unknown' check (health in ('unknown', 'healthy', 'unhealthy')),
    health_detail text,
    health_checked_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
