//! sallyport: an outbound HTTPS forwarding proxy that substitutes credentials.

pub mod model;
pub mod session;
pub mod vault;
