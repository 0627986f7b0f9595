//! WebSockets (RFC 6455): [`handshake`] reads what an agent asks for and checks what its upstream
//! answers, [`relay`] carries the frames.
//!
//! The handshake takes the way of every request: a key goes into its slots there. The upstream is asked
//! over HTTP/1.1 in any case; an agent asks over HTTP/1.1, or over HTTP/2 with extended CONNECT
//! (RFC 8441). Behind the handshake every frame is read: what comes back is searched for keys message by
//! message, inflated where it is compressed (RFC 7692), and a peer that breaks the rules is told so and
//! let go.

mod deflate;
mod flow;
mod frame;
pub mod handshake;
mod outgoing;
pub mod relay;
mod swap;

pub use handshake::Asked;
pub use relay::{Decided, Socket};
