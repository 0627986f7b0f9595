-- Everything that the first release keeps. Times are milliseconds since 1970 in UTC. Each row ends in
-- `mac`: a keyed MAC over all its columns, without which the row is refused.

-- Groups of keys, tools and sessions.
create table projects (
    id text primary key,
    org_id text not null,
    name text not null,
    description text not null,
    created_at bigint not null,
    mac bytea not null,
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
    mac bytea not null,
    unique (org_id, project_id, environment, name)
);

-- Sealed secrets: each version has a data key of its own, wrapped by the key-encryption key.
create table key_versions (
    id text primary key,
    org_id text not null,
    key_id text not null references keys (id) on delete cascade,
    version bigint not null,
    kek text not null,
    wrapped_dek bytea not null,
    sealed bytea not null,
    created_at bigint not null,
    mac bytea not null,
    unique (key_id, version)
);

-- Which process may use up a key's refresh token at the moment; the identifier is the key's.
create table mint_leases (
    id text primary key,
    org_id text not null,
    holder text not null,
    held_until bigint not null,
    mac bytea not null
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
    mac bytea not null,
    unique (org_id, project_id, name)
);

-- The lifetimes that approved requests buy. Of the proxy password only the hash is here.
create table sessions (
    id text primary key,
    org_id text not null,
    project_id text not null references projects (id),
    environment text not null,
    tool_id text references tools (id),
    secret_hash bytea not null,
    sources text not null,
    certificate text,
    revoked_at bigint,
    revoked_by text,
    created_at bigint not null,
    expires_at bigint not null,
    mac bytea not null
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
    mac bytea not null
);

-- This session may use this key.
create table grants (
    id text primary key,
    org_id text not null,
    session_id text not null references sessions (id) on delete cascade,
    key_id text not null references keys (id) on delete cascade,
    created_at bigint not null,
    mac bytea not null,
    unique (session_id, key_id)
);

-- Proxy tokens; only their hashes.
create table tokens (
    id text primary key,
    org_id text not null,
    session_id text not null references sessions (id) on delete cascade,
    grant_id text not null references grants (id) on delete cascade,
    root_id text references tokens (id) on delete cascade,
    hash bytea not null unique,
    shape text not null,
    revoked_at bigint,
    revoked_by text,
    created_at bigint not null,
    expires_at bigint not null,
    mac bytea not null
);

-- Who acts on the admin side; only the hashes of their bearer tokens.
create table principals (
    id text primary key,
    org_id text not null,
    name text not null,
    role text not null,
    token_hash bytea not null unique,
    enabled bigint not null,
    created_at bigint not null,
    mac bytea not null,
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
    value bytea not null
);

-- Three roles: the owner migrates; `sallyport_app` sees one organisation, which each transaction names in
-- `sallyport.org`; `sallyport_feed` reads all, to feed the nodes' memory. A login that may take both roles has
-- the rights of the one that it has taken.
do $$
begin
    if not exists (select from pg_roles where rolname = 'sallyport_app') then
        begin
            create role sallyport_app nologin;
        exception when duplicate_object or unique_violation then
            -- Another database's migration made it at the same moment.
            null;
        end;
    end if;
    if not exists (select from pg_roles where rolname = 'sallyport_feed') then
        begin
            create role sallyport_feed nologin;
        exception when duplicate_object or unique_violation then
            -- Another database's migration made it at the same moment.
            null;
        end;
    end if;
    if not pg_has_role(current_user, 'sallyport_app', 'member') then
        execute format('grant sallyport_app to %I', current_user);
    end if;
    if not pg_has_role(current_user, 'sallyport_feed', 'member') then
        execute format('grant sallyport_feed to %I', current_user);
    end if;
    execute format('grant usage on schema %I to sallyport_app, sallyport_feed', current_schema());
end
$$;

alter table projects enable row level security;
alter table projects force row level security;
create policy tenant on projects to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on projects for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on projects to sallyport_app;
grant select on projects to sallyport_feed;

alter table keys enable row level security;
alter table keys force row level security;
create policy tenant on keys to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on keys for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on keys to sallyport_app;
grant select on keys to sallyport_feed;

alter table key_versions enable row level security;
alter table key_versions force row level security;
create policy tenant on key_versions to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on key_versions for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on key_versions to sallyport_app;
grant select on key_versions to sallyport_feed;

alter table mint_leases enable row level security;
alter table mint_leases force row level security;
create policy tenant on mint_leases to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
grant select, insert, update, delete on mint_leases to sallyport_app;

alter table tools enable row level security;
alter table tools force row level security;
create policy tenant on tools to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on tools for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on tools to sallyport_app;
grant select on tools to sallyport_feed;

alter table sessions enable row level security;
alter table sessions force row level security;
create policy tenant on sessions to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on sessions for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on sessions to sallyport_app;
grant select on sessions to sallyport_feed;

alter table access_requests enable row level security;
alter table access_requests force row level security;
create policy tenant on access_requests to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on access_requests for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on access_requests to sallyport_app;
grant select on access_requests to sallyport_feed;

alter table grants enable row level security;
alter table grants force row level security;
create policy tenant on grants to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on grants for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on grants to sallyport_app;
grant select on grants to sallyport_feed;

alter table tokens enable row level security;
alter table tokens force row level security;
create policy tenant on tokens to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on tokens for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on tokens to sallyport_app;
grant select on tokens to sallyport_feed;

alter table principals enable row level security;
alter table principals force row level security;
create policy tenant on principals to sallyport_app
    using (org_id = current_setting('sallyport.org', true))
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on principals for select to sallyport_feed using (current_user = 'sallyport_feed');
grant select, insert, update, delete on principals to sallyport_app;
grant select on principals to sallyport_feed;

alter table changes enable row level security;
alter table changes force row level security;
create policy tenant on changes for insert to sallyport_app
    with check (org_id = current_setting('sallyport.org', true));
create policy feed on changes for select to sallyport_feed using (current_user = 'sallyport_feed');
create policy prune on changes for delete to sallyport_feed using (current_user = 'sallyport_feed');
grant insert on changes to sallyport_app;
grant select, delete on changes to sallyport_feed;
grant select, update on change_counter to sallyport_app, sallyport_feed;
grant select, insert on meta to sallyport_feed;
