//! For each promise of the design, attempts to break it.

mod p01_agent_never_sees_a_key;
mod p02_token_is_worthless_elsewhere;
mod p03_denied_by_default;
mod p04_checked_is_sent;
mod p05_no_record_no_service;
mod p08_revoked_means_now;
mod p09_bounded;
mod p10_upstream_tls_verified;
