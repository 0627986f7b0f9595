//! The words of the product as types: identifiers, secrets, tokens, authorities, slots and time.
//!
//! Everything here is plain data. Nothing in this module does I/O, and nothing in it depends on
//! another part, so every part can depend on it. Values are made by parsing at the border
//! ([`Authority::parse`], [`HostPattern::parse`], [`ProxyToken::parse`]) and trusted afterwards.

mod authority;
mod base;
mod clock;
mod destination;
mod endpoint;
mod host_pattern;
mod ids;
mod kind;
mod name;
mod near;
mod origin;
mod secret;
mod slot;
mod template;
mod token;

pub use authority::{Authority, AuthorityError, Host, Scheme};
pub use base::{BaseUrl, BaseUrlError};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use destination::{Cleartext, Destination};
pub use endpoint::{EndpointError, TokenEndpoint};
pub use host_pattern::{HostPattern, HostPatternError};
pub use ids::{
    ExchangeId, GrantId, HEX_PAIRS, IdError, KeyId, OrgId, PrincipalId, ProjectId, RequestId, SessionId, TokenId,
    ToolId,
};
pub use kind::{KeyKind, KeyKindError};
pub use name::{Environment, Name, NameError};
pub use near::nearest;
pub use origin::{Bounds, Fingerprint, FingerprintError, Origin};
pub use secret::Secret;
pub use slot::{FieldName, Pointer, Slot, SlotError};
pub use template::{PathTemplate, Template};
pub use token::{ProxyToken, SessionSecret, TokenError, TokenForm, TokenHash, TokenShape};
