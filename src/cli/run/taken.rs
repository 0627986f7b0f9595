//! Keys that are taken from the caller's environment.

use crate::credential::aws;
use crate::model::{BaseUrl, Destination, KeyKind, Secret};
use crate::providers::Provider;
use crate::vault::key::Key;

/// Whether a stored key was asked for that belongs in the same variable: it is meant, then.
pub fn named_anyway(one: &Taken, stored: &[Key], providers: &[Provider]) -> bool {
    stored.iter().any(|key| one.variables.contains(&variable_of(key, providers)))
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
    /// Where it may go; why it can't be used, if that isn't known.
    pub destination: Result<Destination, String>,
}

/// The keys that providers' variables hold. Two variables of one provider with one value are one key.
/// What belongs to a service on this machine isn't taken: it is reached without the proxy.
pub fn take_keys(caller: &[(String, String)], providers: &[Provider]) -> Vec<Taken> {
    let value = |name: &String| caller.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value);
    let mut all: Vec<Taken> = Vec::new();
    for provider in providers {
        let address = provider.address_env.iter().find_map(|name| Some((name, value(name)?)));
        let own = address.map(|(name, text)| BaseUrl::parse_bare(text).map_err(|why| format!("{name} holds {why}")));
        if matches!(&own, Some(Ok(own)) if own.authority.host.is_loopback()) {
            continue;
        }
        for variable in &provider.env {
            let Some(found) = value(variable) else { continue };
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
                    destination: match &own {
                        Some(Err(why)) => Err(why.clone()),
                        Some(Ok(own)) => provider.destination(Some(own)).map_err(|why| why.to_string()),
                        None => provider.destination(None).map_err(|why| why.to_string()),
                    },
                    provider: provider.clone(),
                }),
            }
        }
    }
    all
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
