//! Malformed and hostile bytes from agents and upstreams, and what an attacker once found.

mod admin_listener;
mod agents;
mod credentials;
mod denial;
mod frames;
mod hellos;
mod more_than_a_page;
mod own_listeners;
mod reflection;
mod registered;
mod replies;
mod rows_that_are_gone;
mod unreadable;
mod upstreams;
