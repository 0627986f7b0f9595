//! Templates of services: where a service's key may go, and how its clients expect it to look.
//!
//! The bundled ones are in `bundled/`, by theme. A user's own stand in the data directory's
//! `providers/*.yaml`, in the same form, and ten lines are enough for one:
//!
//! ```yaml
//! - name: intranet                                 # also its gateway route: /intranet/...
//!   title: Our search                              # optional
//!   kind: secret                                   # what its key is, if it isn't put in as it is
//!   hosts: [search.example.com]                    # where its key may go; `*.` is one label, `**.` several
//!   slots: [bearer, "header:x-api-key"]            # in which places; the first is the usual one
//!   env: [INTRANET_API_KEY]                        # variables in which people keep the key
//!   address_env: [INTRANET_URL]                    # variables with the address of one's own installation
//!   prefix: "in-"                                  # what stands before its tokens, if clients look at it
//!   base: "https://search.example.com"             # where its gateway route leads
//!   check: { request: "GET /v1/me" }               # tells whether a key is valid; see `Check`
//! ```
//!
//! A service that everybody has at an address of their own has an `example` of it and no `hosts`.
//! One without `env` and `slots` needs no key.

mod check;
pub mod connect;
mod library;

use serde::Deserialize;

pub use check::{Check, Verdict};
pub use library::{Library, Problem};

use crate::model::{BaseUrl, Cleartext, Destination, HostPattern, KeyKind, Name, Scheme, Slot, TokenShape};

/// A file that adds a service, for people to change.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// A service that sallyport knows.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its short name; also its gateway route and the label of metrics.
    pub name: Name,
    /// Its name for people.
    pub title: String,
    /// What its key is.
    pub kind: KeyKind,
    /// Where its key may go, unless it has an address of its own; empty if it always has.
    pub hosts: Vec<HostPattern>,
    /// In which places its key may be put, the usual one first; empty if it needs no key.
    pub slots: Vec<Slot>,
    /// The environment variables in which people keep its key, the usual one first.
    pub env: Vec<String>,
    /// The environment variables in which people keep the address of their own installation.
    pub address_env: Vec<String>,
    /// What such an address looks like, where there is no other.
    pub example: Option<String>,
    /// What its proxy tokens look like: some clients choose their header by a key's first letters.
    pub shape: TokenShape,
    /// Where its gateway route leads; none if it has no address in common.
    pub base: Option<BaseUrl>,
    /// How to find out whether a key is valid.
    pub check: Option<Check>,
    /// Whether it came from a file of the user's.
    pub own: bool,
}

/// A template as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Name,
    title: Option<String>,
    #[serde(default)]
    kind: KeyKind,
    #[serde(default)]
    hosts: Vec<HostPattern>,
    #[serde(default)]
    slots: Vec<Slot>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    address_env: Vec<String>,
    example: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
    base: Option<String>,
    check: Option<check::Written>,
    /// Whether it takes the place of a bundled one of the same name.
    #[serde(default)]
    replaces: bool,
}

/// Why a key can't go where it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The service has no address in common.
    #[error("{title} is at an address of your own, such as {example}: give it with --base-url{variables}")]
    Needed {
        /// The service.
        title: String,
        /// Such an address.
        example: String,
        /// ` or in NAME`, if there are variables for it.
        variables: String,
    },
    /// It is in clear text, and not on this machine.
    #[error("keys don't travel in clear text beyond this machine: write the address with https://")]
    Cleartext,
}

impl Provider {
    /// Where its key may go: to the address of one's own, else where everybody's goes. An address
    /// that the template names anyway changes nothing.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn destination(&self, own: Option<&BaseUrl>) -> Result<Destination, AddressError> {
        let here = |base: &BaseUrl| base.scheme == Scheme::Http && base.authority.host.is_loopback();
        let cleartext = if self.base.as_ref().is_some_and(here) { Cleartext::Loopback } else { Cleartext::Never };
        let shared = |hosts| Destination { hosts, slots: self.slots.clone(), cleartext };
        let Some(own) = own else {
            return if self.hosts.is_empty() { Err(self.address_needed()) } else { Ok(shared(self.hosts.clone())) };
        };
        let named = |pattern: &HostPattern| pattern.exact().is_some() && pattern.matches(&own.authority, 443);
        if own.scheme == Scheme::Https && self.hosts.iter().any(named) {
            return Ok(shared(self.hosts.clone()));
        }
        at(own, &self.slots)
    }

    fn address_needed(&self) -> AddressError {
        AddressError::Needed {
            title: self.title.clone(),
            example: self.example.clone().unwrap_or_else(|| "https://api.example.com".to_owned()),
            variables: self.address_env.first().map(|name| format!(", or in {name}")).unwrap_or_default(),
        }
    }

    /// Checks what the types don't.
    fn read(written: Written, own: bool) -> Result<(Self, bool), String> {
        let Written {
            name,
            title,
            kind,
            hosts,
            slots,
            env,
            address_env,
            example,
            prefix,
            suffix,
            base,
            check,
            replaces,
        } = written;
        if let Some(slot) = slots.iter().find(|slot| !kind.fits(slot)) {
            return Err(format!("slots: a key of kind {kind} can't be put into {slot}"));
        }
        for variable in env.iter().chain(&address_env) {
            let fits = |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
            if variable.is_empty() || !variable.chars().enumerate().all(fits) {
                return Err(format!("{variable:?} is no name of a variable"));
            }
        }
        for affix in [&prefix, &suffix] {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
            if affix.len() > 64 || !affix.bytes().all(fits) || affix.contains("spt_") {
                return Err("prefix and suffix are at most 64 of A-Z, a-z, 0-9, '-', '_', '.' and ':'".to_owned());
            }
        }
        let base = base.map(|text| BaseUrl::parse(&text).map_err(|why| format!("base: {why}"))).transpose()?;
        match (env.is_empty(), slots.is_empty(), hosts.is_empty(), &example, &base) {
            (true, true, true, None, Some(_)) => {}
            (true, true, ..) => {
                return Err("a service without a key has a base, and neither hosts nor slots".to_owned());
            }
            (_, true, ..) => return Err("slots: say in which places its key may be put".to_owned()),
            (true, ..) => return Err("env: name the variables in which people keep its key".to_owned()),
            (_, _, true, None, _) => {
                return Err("hosts: say where its key may go, or give an example address".to_owned());
            }
            (_, _, false, Some(_), _) => {
                return Err("example: it is for services without hosts, which are at addresses of one's own".to_owned());
            }
            _ => {}
        }
        if let Some(example) = &example {
            BaseUrl::parse(example).map_err(|why| format!("example: {why}"))?;
        }
        let check = check.map(|check| Check::read(check, &slots)).transpose().map_err(|why| format!("check: {why}"))?;
        let covered = |base: &BaseUrl| {
            base.scheme == Scheme::Http || hosts.is_empty() || hosts.iter().any(|h| h.matches(&base.authority, 443))
        };
        for (what, address) in [("base", base.as_ref()), ("check", check.as_ref().and_then(Check::elsewhere))] {
            if !address.is_none_or(covered) {
                return Err(format!("{what}: its host is not among the hosts"));
            }
        }
        let shape = TokenShape { prefix, suffix };
        let title = title.unwrap_or_else(|| name.to_string());
        let provider = Self { name, title, kind, hosts, slots, env, address_env, example, shape, base, check, own };
        Ok((provider, replaces))
    }
}

/// Where a key may go that belongs to one address alone.
///
/// # Errors
/// See [`AddressError`].
pub fn at(own: &BaseUrl, slots: &[Slot]) -> Result<Destination, AddressError> {
    let cleartext = match own.scheme {
        Scheme::Https => Cleartext::Never,
        Scheme::Http if own.authority.host.is_loopback() => Cleartext::Loopback,
        Scheme::Http => return Err(AddressError::Cleartext),
    };
    let hosts = own.host().into_iter().collect();
    Ok(Destination { hosts, slots: slots.to_vec(), cleartext })
}
