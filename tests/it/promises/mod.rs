//! For each promise of the design, attempts to break it.

mod p01_agent_never_sees_a_key;
mod p01_codings;
mod p01_names_and_codings;
mod p01_other_times_and_ports;
mod p01_short_keys;
mod p02_token_in_other_forms;
mod p02_token_is_worthless_elsewhere;
mod p03_denied_by_default;
mod p04_checked_is_sent;
mod p04_names_and_first_bytes;
mod p04_rebinding;
mod p05_no_record_no_service;
mod p06_no_tampering_unseen;
mod p07_nothing_in_clear;
mod p08_cut_off_from_the_store;
mod p08_revoked_at_every_stage;
mod p08_revoked_means_now;
mod p09_bounded;
mod p09_every_wait_ends;
mod p09_unread_replies;
mod p10_upstream_tls_verified;
mod p10_weak_cryptography;
