-- UUIDv7 as the programs make them: sorts by the millisecond it was made in. Postgres has its own from 18 on.
create function headgate_uuid_v7() returns uuid language sql volatile as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

-- Where a tenant wants to be told of what happened.
create table webhook_endpoint (
    webhook_endpoint_id uuid primary key,
    tenant text not null,
    created_by text not null,
    description text not null,
    event_types text[] not null check (cardinality(event_types) > 0),
    -- Only exports that have all of these labels.
    labels jsonb not null,
    -- As in connection. The address is sealed too, since many receivers take whoever knows it for allowed.
    key_id text not null,
    sealed_data_key bytea not null,
    url bytea not null,
    -- For people who look into the log: the address without what could be secret.
    host text not null,
    secret bytea not null,
    secret_version integer not null default 1,
    -- The secret before the last rotation, which signs too until then.
    previous_secret bytea,
    previous_secret_until timestamptz,
    disabled_at timestamptz,
    disabled_reason text check (disabled_reason in ('requested', 'gone', 'failing')),
    -- The first failure since the last success.
    failing_since timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint disabled_says_why check ((disabled_at is null) = (disabled_reason is null)),
    constraint previous_secret_ends check ((previous_secret is null) = (previous_secret_until is null))
);
create index webhook_endpoint_by_tenant on webhook_endpoint (tenant, webhook_endpoint_id desc);

-- The outbox: one event for one endpoint, written in the transaction of what happened.
create table webhook_delivery (
    webhook_delivery_id uuid primary key default headgate_uuid_v7(),
    webhook_endpoint_id uuid not null references webhook_endpoint on delete cascade,
    -- The same for all endpoints, tries and replays: receivers know by it what they have seen.
    event_id uuid not null,
    event_type text not null,
    occurred_at timestamptz not null default clock_timestamp(),
    -- What the message says of its object.
    object_id text not null,
    object_state text not null,
    object_href text not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    -- While pending: when to try, or, while somebody is trying, the end of the lease.
    due_at timestamptz not null default now(),
    claim uuid,
    -- Tries since it was made or last asked for again.
    tries integer not null default 0,
    finished_at timestamptz,
    constraint finished_at_matches_state check ((finished_at is not null) = (state <> 'pending'))
) with (fillfactor = 80);
create index webhook_delivery_due on webhook_delivery (due_at) where state = 'pending';
create index webhook_delivery_due_by_endpoint on webhook_delivery (webhook_endpoint_id, due_at) where state = 'pending';
create index webhook_delivery_by_endpoint on webhook_delivery (webhook_endpoint_id, webhook_delivery_id desc);
create index webhook_delivery_by_age on webhook_delivery (occurred_at);

-- Every try that came to an end. No bodies: only how it was answered.
create table webhook_attempt (
    webhook_delivery_id uuid not null references webhook_delivery on delete cascade,
    -- Counts from 1 within the delivery, over its replays.
    number integer not null,
    at timestamptz not null,
    http_status integer,
    duration_ms bigint not null,
    -- Why it was no success.
    error text,
    primary key (webhook_delivery_id, number)
);

-- Tells the endpoints of an event. A disabled endpoint gets a delivery that has failed, so that it can be asked for once
-- the endpoint is enabled again. Tenant null: endpoints of every tenant.
create function emit_webhook_event(tenant text, event_type text, labels jsonb,
                                   object_id text, object_state text, object_href text)
returns void language plpgsql as $$
declare
    event uuid := headgate_uuid_v7();
begin
    insert into webhook_delivery (webhook_endpoint_id, event_id, event_type, object_id, object_state, object_href,
                                  state, finished_at)
    select e.webhook_endpoint_id, event, $2, $4, $5, $6,
           case when e.disabled_at is null then 'pending' else 'failed' end,
           case when e.disabled_at is not null then now() end
    from webhook_endpoint e
    where ($1 is null or e.tenant = $1) and e.event_types @> array[$2] and $3 @> e.labels;
    if found then
        perform pg_notify('headgate_delivery', '');
    end if;
end $$;

-- Here and not in the code, so that no way to a final state, and no version of the program, can forget it.
create function emit_export_finished() returns trigger language plpgsql as $$
declare
    shown text := 'exp_' || replace(new.export_id::text, '-', '');
begin
    perform emit_webhook_event(new.tenant, 'export.' || new.state, new.labels,
                               shown, new.state, '/v1/exports/' || shown);
    return null;
end $$;
create trigger export_finished after update on export for each row
    when (old.finished_at is null and new.finished_at is not null) execute function emit_export_finished();
create trigger export_finished_at_once after insert on export for each row
    when (new.finished_at is not null) execute function emit_export_finished();

create function emit_connection_unhealthy() returns trigger language plpgsql as $$
begin
    perform emit_webhook_event(null, 'connection.unhealthy', '{}', new.name, new.health, '/v1/connections/' || new.name);
    return null;
end $$;
create trigger connection_unhealthy after update of health on connection for each row
    when (old.health <> 'unhealthy' and new.health = 'unhealthy') execute function emit_connection_unhealthy();
