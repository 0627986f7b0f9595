//! HTTP/2 on both sides, and what one side's events mean on the other.

mod away;
mod early;
mod expects;
mod flow;
mod grpc;
mod interim;
mod left;
mod resets;
mod streams;
