//! Malformed and hostile bytes from agents and upstreams, and what an attacker once found.

mod admin_listener;
mod agents;
mod frames;
mod more_than_a_page;
mod own_listeners;
mod registered;
mod replies;
mod rows_that_are_gone;
mod unreadable;
mod upstreams;
