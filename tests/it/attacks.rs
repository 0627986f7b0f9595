//! Malformed and hostile bytes from agents and upstreams.

mod agents;
mod upstreams;
