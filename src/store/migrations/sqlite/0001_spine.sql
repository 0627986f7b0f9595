-- Everything that the first release keeps. Times are milliseconds since 1970 in UTC. Each row ends in
-- `mac`: a keyed MAC over all its columns, without which the row is refused.

-- Groups of keys, tools and sessions.
create table projects (
    id text primary key,
    org_id text not null,
    name text not null,
    description text not null,
    created_at bigint not null,
    mac blob not null,
    unique (org_id, name)
);

-- Stored upstream credentials, without their secrets. The MAC covers the destination, so a key can't be pointed elsewhere here.
create table keys (
    id text primary key,
    org_id text not null,
    project_id text not null references projects (id),
    environment text not null,
    name text not null,
    provider text not null,
    kind text not null,
    token_endpoint text,
    destination text not null,
    shape text not null,
    state text not null,
    version bigint not null,
    given bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    expires_at bigint,
    mac blob not null,
    unique (org_id, project_id, environment, name)
);

-- Sealed secrets: each version has a data key of its own, wrapped by the key-encryption key.
create table key_versions (
    id text primary key,
    org_id text not null,
    key_id text not null references keys (id) on delete cascade,
    version bigint not null,
    kek text not null,
    wrapped_dek blob not null,
    sealed blob not null,
    created_at bigint not null,
    mac blob not null,
    unique (key_id, version)
);

-- Which process may use up a key's refresh token at the moment; the identifier is the key's.
create table mint_leases (
    id text primary key,
    org_id text not null,
    holder text not null,
    held_until bigint not null,
    mac blob not null
);

-- Registered agent programs and the most that they may ever ask for.
create table tools (
    id text primary key,
    org_id text not null,
    project_id text not null references projects (id),
    name text not null,
    description text not null,
    key_names text not null,
    environments text not null,
    max_session_secs bigint not null,
    enabled bigint not null,
    created_at bigint not null,
    mac blob not null,
    unique (org_id, project_id, name)
);

-- The lifetimes that approved requests buy. Of the proxy password only the hash is here.
create table sessions (
    id text primary key,
    org_id text not null,
    project_id text not null references projects (id),
    environment text not null,
    tool_id text references tools (id),
    secret_hash blob not null,
    sources text not null,
    certificate text,
    revoked_at bigint,
    revoked_by text,
    created_at bigint not null,
    expires_at bigint not null,
    mac blob not null
);

-- Tools asking for keys for a while.
create table access_requests (
    id text primary key,
    org_id text not null,
    project_id text not null references projects (id),
    tool_id text not null references tools (id),
    environment text not null,
    key_names text not null,
    justification text not null,
    duration_secs bigint not null,
    state text not null,
    decided_by text not null,
    session_id text,
    created_at bigint not null,
    decided_at bigint,
    mac blob not null
);

-- This session may use this key.
create table grants (
    id text primary key,
    org_id text not null,
    session_id text not null references sessions (id) on delete cascade,
    key_id text not null references keys (id) on delete cascade,
    created_at bigint not null,
    mac blob not null,
    unique (session_id, key_id)
);

-- Proxy tokens; only their hashes.
create table tokens (
    id text primary key,
    org_id text not null,
    session_id text not null references sessions (id) on delete cascade,
    grant_id text not null references grants (id) on delete cascade,
    root_id text references tokens (id) on delete cascade,
    hash blob not null unique,
    shape text not null,
    revoked_at bigint,
    revoked_by text,
    created_at bigint not null,
    expires_at bigint not null,
    mac blob not null
);

-- Who acts on the admin side; only the hashes of their bearer tokens.
create table principals (
    id text primary key,
    org_id text not null,
    name text not null,
    role text not null,
    token_hash blob not null unique,
    enabled bigint not null,
    created_at bigint not null,
    mac blob not null,
    unique (org_id, name)
);

create index sessions_by_expiry on sessions (expires_at);
create index tokens_by_session on tokens (session_id);
create index tokens_by_root on tokens (root_id);
create index grants_by_key on grants (key_id);

-- What changed, in the order of commits: the counter's row is updated last in a transaction, and its lock is
-- held until the commit.
create table changes (
    number bigint primary key,
    org_id text not null,
    kind text not null,
    row_id text not null,
    changed_at bigint not null
);

-- One row: the number of the last change, and up to which number old changes were removed.
create table change_counter (
    id bigint primary key,
    number bigint not null,
    pruned bigint not null
);

insert into change_counter (id, number, pruned) values (1, 0, 0);

-- Small things of the whole store, such as the text that only the right key-encryption key opens.
create table meta (
    name text primary key,
    value blob not null
);
