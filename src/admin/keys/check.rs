//! What a key may be made of.

use super::shapes::New;
use crate::admin::body::name;
use crate::admin::{Admin, Problem};
use crate::credential;
use crate::model::{
    BaseUrl, Cleartext, Destination, HostPattern, KeyKind, Name, Secret, Slot, Timestamp, TokenEndpoint, TokenShape,
    nearest,
};
use crate::providers::{self, Provider};
use crate::vault::SHORT_SECRET;

pub(super) fn hosts(texts: &[String]) -> Result<Vec<HostPattern>, Problem> {
    if texts.is_empty() || texts.len() > 100 {
        return Err(Problem::invalid("hosts", "give between 1 and 100 host patterns"));
    }
    let read = |text: &String| {
        if text.contains("://") || text.contains('/') {
            return Err(Problem::invalid("hosts", "leave out the scheme and the path: api.example.com"));
        }
        HostPattern::parse(text).map_err(|why| Problem::invalid("hosts", why))
    };
    texts.iter().map(read).collect()
}

pub(super) fn slots(texts: &[String]) -> Result<Vec<Slot>, Problem> {
    if texts.is_empty() || texts.len() > 20 {
        return Err(Problem::invalid("slots", "give between 1 and 20 slots"));
    }
    texts.iter().map(|t| t.parse().map_err(|why| Problem::invalid("slots", why))).collect()
}

/// Whether what the kind yields can stand in each of the slots, and go without TLS if it is to.
pub(super) fn check_slots(kind: KeyKind, destination: &Destination) -> Result<(), Problem> {
    if kind.is_of_connection() && destination.cleartext != Cleartext::Never {
        return Err(Problem::invalid("cleartext", "a client certificate is shown over TLS only"));
    }
    match destination.slots.iter().find(|slot| !kind.fits(slot)) {
        Some(slot) => Err(Problem::invalid("slots", format!("a key of kind {kind} can't be put into {slot}"))),
        None => Ok(()),
    }
}

/// What is doubtful about a value: slots of the key in which it can't stand, and what its kind says of it.
pub(super) fn doubts(
    kind: KeyKind,
    secret: &Secret<Vec<u8>>,
    destination: &Destination,
    now: Timestamp,
) -> Result<Vec<String>, Problem> {
    let unreadable = |why| Problem::invalid("value", why);
    let mut said = credential::warnings(kind, secret, now).map_err(unreadable)?;
    let mut short = false;
    credential::secret_parts(kind, secret.expose(), &mut |part| short |= part.len() < SHORT_SECRET)
        .map_err(unreadable)?;
    if short {
        said.push(format!(
            "the secret is shorter than {SHORT_SECRET} bytes: so that nobody can try it out, the last bytes of a line \
             that a reply of its hosts hasn't ended are held back until more comes, whatever they are; services that \
             answer without ending lines, such as gRPC streams and terminals, need a longer one"
        ));
    }
    if kind.is_computed() {
        return Ok(said);
    }
    let unfit = |slot: &Slot| slot.suits(secret.expose()).err().map(|why| (slot.to_string(), why));
    let unfit: Vec<_> = destination.slots.iter().filter_map(unfit).collect();
    if let Some((slot, why)) = unfit.first().filter(|_| unfit.len() == destination.slots.len()) {
        return Err(Problem::invalid("value", format!("it {why}, so it can't be put into {slot}")));
    }
    said.extend(unfit.iter().map(|(slot, why)| format!("the value {why}, so it can't be put into {slot}")));
    Ok(said)
}

/// Where access tokens are asked for, by the document of a kind that is minted.
pub(super) fn token_endpoint(
    kind: KeyKind,
    document: &Secret<Vec<u8>>,
    destination: &Destination,
) -> Result<Option<TokenEndpoint>, Problem> {
    let found = credential::token_endpoint(kind, document).map_err(|why| Problem::invalid("value", why))?;
    check_endpoint(found.as_ref(), destination)?;
    Ok(found)
}

/// Whether the key may go where its access tokens are asked for.
pub(super) fn check_endpoint(endpoint: Option<&TokenEndpoint>, destination: &Destination) -> Result<(), Problem> {
    match endpoint.filter(|at| !destination.covers(at.scheme, &at.authority)) {
        Some(at) => {
            let at = &at.authority;
            Err(Problem::invalid(
                "hosts",
                format!("the key's token endpoint is at {at}, which isn't among them; add it"),
            ))
        }
        None => Ok(()),
    }
}

pub(super) fn cleartext(text: &str) -> Result<Cleartext, Problem> {
    match text {
        "never" => Ok(Cleartext::Never),
        "loopback" => Ok(Cleartext::Loopback),
        _ => Err(Problem::invalid("cleartext", "it is never or loopback")),
    }
}

fn prefix(text: &str) -> Result<String, Problem> {
    let fits = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Problem::invalid("tokenPrefix", "use at most 64 of A-Z, a-z, 0-9, '-', '_' and '.'"))
    }
}

/// The provider's name, kind, destination and token shape, with what the request puts in their place.
pub(super) fn placed(admin: &Admin, new: &New) -> Result<(Name, KeyKind, Destination, TokenShape), Problem> {
    let known = admin.providers.current();
    let template = match &new.provider {
        Some(wanted) if wanted != "custom" => {
            let found = known.iter().find(|p| p.name.as_str() == wanted && !p.env.is_empty());
            Some(found.ok_or_else(|| strange(&known, wanted))?)
        }
        _ => None,
    };
    let kind = new.kind.as_deref().map(str::parse).transpose().map_err(|why| Problem::invalid("kind", why))?;
    let kind = kind.or(template.map(|t| t.kind)).unwrap_or_default();
    if new.base_url.is_some() && new.hosts.is_some() {
        return Err(Problem::invalid("baseUrl", "give an address or hosts, not both"));
    }
    let own = new.base_url.as_deref().map(BaseUrl::parse_bare).transpose();
    let own = own.map_err(|why| Problem::invalid("baseUrl", why))?;
    let given = new.slots.as_deref().map(slots).transpose()?;
    let mut destination = match (&new.hosts, template, &own) {
        (Some(given), ..) => {
            let slots = template.map_or_else(|| kind.usual_slots(), |t| t.slots.clone());
            Destination { hosts: hosts(given)?, slots, cleartext: Cleartext::Never }
        }
        (None, Some(template), own) => {
            template.destination(own.as_ref()).map_err(|why| Problem::invalid("baseUrl", why))?
        }
        (None, None, Some(own)) => {
            providers::at(own, &kind.usual_slots()).map_err(|why| Problem::invalid("baseUrl", why))?
        }
        (None, None, None) => return Err(Problem::invalid("hosts", "name a provider, or hosts and slots")),
    };
    match given {
        Some(given) => destination.slots = given,
        // Another kind than the template's keys have may not fit all of its slots.
        None => destination.slots.retain(|slot| kind.fits(slot)),
    }
    if destination.slots.is_empty() {
        destination.slots = kind.usual_slots();
    }
    if let Some(text) = &new.cleartext {
        destination.cleartext = cleartext(text)?;
    }
    check_slots(kind, &destination)?;
    let shape = match (&new.token_prefix, template) {
        (Some(given), _) => TokenShape { prefix: prefix(given)?, suffix: String::new() },
        (None, Some(template)) => template.shape.clone(),
        (None, None) => TokenShape::default(),
    };
    let provider = template.map_or_else(|| name("provider", "custom"), |t| Ok(t.name.clone()))?;
    Ok((provider, kind, destination, shape))
}

fn strange(known: &[Provider], provider: &str) -> Problem {
    let keyed = known.iter().filter(|p| !p.env.is_empty()).map(|p| p.name.as_str());
    let near = nearest(&provider.to_ascii_lowercase(), keyed);
    let meant = near.map(|name| format!(" (is {name} meant?)")).unwrap_or_default();
    let what = if known.iter().any(|p| p.name.as_str() == provider) { "it needs no key" } else { "it isn't known" };
    Problem::invalid("provider", format!("{what}{meant}; see `sallyport providers list`"))
}
