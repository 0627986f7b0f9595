//! Malformed and hostile bytes from agents and upstreams.

mod agents;
mod frames;
mod replies;
mod upstreams;
