-- What ended long ago is removed: found by its time, and its tokens by their grants.
create index requests_by_decision on access_requests (decided_at);
create index tokens_by_grant on tokens (grant_id);
