-- Calls counted in a window, over all replicas and all connections of one account at a vendor. Written with every call
-- and worth nothing after a crash, so not logged: no call waits for the disk.
create unlogged table vendor_budget (
    vendor text not null,
    account text not null,
    budget text not null,
    call_limit integer not null,
    used integer not null,
    resets_at timestamptz not null,
    primary key (vendor, account, budget)
) with (fillfactor = 50);

-- Places of a budget that is kept by spacing: a place that is taken is free again at free_at.
create unlogged table vendor_call_slot (
    vendor text not null,
    account text not null,
    budget text not null,
    slot integer not null,
    free_at timestamptz not null default now(),
    primary key (vendor, account, budget, slot)
) with (fillfactor = 50);

-- Tokens that vendors issue and that kill their predecessors: one for each account, sealed under a data key of its own.
create table vendor_token (
    vendor text not null,
    account text not null,
    -- Grows with each issue; 0 before the first.
    generation bigint not null default 0,
    key_id text,
    sealed_data_key bytea,
    token bytea,
    issued_at timestamptz,
    expires_at timestamptz,
    -- Who is getting the next one, and until when the others wait for that.
    refresher uuid,
    refresh_until timestamptz,
    primary key (vendor, account)
);
