//! Keys that are taken from the caller's environment.

use crate::credential::aws;
use crate::model::{BaseUrl, Destination, KeyKind, Secret};
use crate::providers::Provider;
use crate::vault::MIN_SECRET;
use crate::vault::key::Key;

/// If a stored key was asked for that belongs in the same variable, that one is meant.
pub fn give_way(taken: &mut [Taken], stored: &[Key], providers: &[Provider]) {
    for one in taken {
        let instead = stored.iter().find(|key| one.variables.contains(&variable_of(key, providers)));
        if let Some(key) = instead {
            one.fate = Fate::Replaced(key.name.to_string());
        }
    }
}

/// The variable in which a stored key's token belongs.
pub fn variable_of(key: &Key, providers: &[Provider]) -> String {
    let usual = providers.iter().find(|p| p.name == key.provider).map_or(&[][..], |p| &p.env);
    super::super::env::variable_of(usual, key.name.as_str())
}

/// Variables that look like credentials and belong to no provider.
pub fn unlisted(caller: &[(String, String)], taken: &[Taken]) -> Vec<String> {
    let looks =
        |name: &str| ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS"].iter().any(|end| name.ends_with(end));
    let ours =
        |name: &str| name.starts_with("SALLYPORT_") || taken.iter().any(|t| t.variables.iter().any(|v| v == name));
    let all = caller.iter().filter(|(name, value)| looks(name) && !ours(name) && value.len() >= 8);
    // What holds a key that was taken isn't passed on at all.
    let copies = |value: &str| {
        let mut parts = taken.iter().flat_map(|t| t.parts.iter().chain([&t.value]));
        parts.any(|part| value.contains(part.expose().as_str()))
    };
    all.filter(|(_, value)| !copies(value)).map(|(name, _)| name.clone()).collect()
}

/// The caller's environment. A variable that isn't UTF-8 can't be searched for keys, so it stays
/// behind.
pub fn caller_environment() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// A key from the caller's environment.
pub struct Taken {
    pub provider: Provider,
    pub variables: Vec<String>,
    pub value: Secret<String>,
    /// What of it must not be passed on, where the value is put together from several variables.
    pub parts: Vec<Secret<String>>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a key from the environment. The command gets none of them.
#[derive(Clone)]
pub enum Fate {
    /// A token stands for it, and it goes here.
    Goes(Destination),
    /// It can't be used, for this reason.
    Useless(String),
    /// The variable of this name leads to this machine, which is reached without the proxy.
    Here(String),
    /// The stored key of this name was asked for in its place.
    Replaced(String),
}

/// What a variable holds whose service is on this machine: clients want something there.
pub const PLACEHOLDER: &str = "sallyport-passes-no-key-to-this-machine";

impl Taken {
    /// What is to be said of it, unless a token stands for it.
    pub fn told(&self) -> Option<String> {
        let variables = self.variables.join(" and ");
        match &self.fate {
            Fate::Goes(_) => None,
            Fate::Useless(why) => Some(format!("{variables} is not passed on: {why}")),
            Fate::Here(address) => Some(format!(
                "{variables} holds a placeholder: {address} leads to this machine, which is reached without the \
                 proxy. If the service there asks for a key, store it with `sallyport keys add NAME --base-url ADDRESS` \
                 and use the gateway of `sallyport serve`"
            )),
            Fate::Replaced(key) => {
                Some(format!("what {variables} held is not passed on: the stored key {key} was asked for"))
            }
        }
    }
}

/// The keys that providers' variables hold. Two variables of one provider with one value are one key.
/// Of a service on this machine, what is too short for a key is none.
pub fn take_keys(caller: &[(String, String)], providers: &[Provider]) -> Vec<Taken> {
    let value = |name: &String| caller.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value);
    let mut all: Vec<Taken> = Vec::new();
    for provider in providers {
        let address = provider.address_env.iter().find_map(|name| Some((name, value(name)?)));
        let own = address.map(|(name, text)| BaseUrl::parse_bare(text).map_err(|why| format!("{name} holds {why}")));
        let here = match (&own, address) {
            (Some(Ok(own)), Some((name, _))) if own.authority.host.is_loopback() => Some(name),
            _ => None,
        };
        for variable in &provider.env {
            let Some(found) = value(variable).filter(|value| here.is_none() || value.len() >= MIN_SECRET) else {
                continue;
            };
            let pair = if provider.kind == KeyKind::Aws { pair(found, &value) } else { None };
            let (variables, value, parts) = match (provider.kind, pair) {
                (KeyKind::Aws, None) => continue,
                (_, Some(pair)) => pair,
                (_, None) => (vec![variable.clone()], found.clone(), Vec::new()),
            };
            match all.iter_mut().find(|t| t.provider.name == provider.name && t.value.expose() == &value) {
                Some(taken) => taken.variables.push(variable.clone()),
                None => all.push(Taken {
                    variables,
                    value: Secret::new(value),
                    parts,
                    fate: match (&own, here) {
                        (_, Some(address)) => Fate::Here(address.clone()),
                        (Some(Err(why)), None) => Fate::Useless(why.clone()),
                        (Some(Ok(own)), None) => fate(provider.destination(Some(own))),
                        (None, None) => fate(provider.destination(None)),
                    },
                    provider: provider.clone(),
                }),
            }
        }
    }
    all
}

fn fate(destination: Result<Destination, impl std::fmt::Display>) -> Fate {
    destination.map_or_else(|why| Fate::Useless(why.to_string()), Fate::Goes)
}

/// An AWS access key pair: its variables, its document and what of it is secret.
fn pair<'a>(
    id: &str,
    value: &impl Fn(&String) -> Option<&'a String>,
) -> Option<(Vec<String>, String, Vec<Secret<String>>)> {
    let (secret, token) = (value(&aws::SECRET.to_owned())?, value(&aws::SESSION_TOKEN.to_owned()));
    let mut variables = vec![aws::ID.to_owned(), aws::SECRET.to_owned()];
    variables.extend(token.map(|_| aws::SESSION_TOKEN.to_owned()));
    let document = aws::document(id, secret, token.map(String::as_str)).expose().clone();
    let parts = [Some(secret), token].into_iter().flatten().map(|part| Secret::new(part.clone())).collect();
    Some((variables, document, parts))
}
