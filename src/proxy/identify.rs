//! Finds proxy tokens in a request: token -> session, grant, key; and tells what else stands where
//! a credential belongs.
//!
//! A token counts only in a credential slot: `Authorization`, a header that some key names as its
//! slot, or another place that a key of this host names. Anywhere else it is inert text (a chat
//! transcript may quote one): it is forwarded as it is, and counted in a request's head and in a body
//! that is read for its slots. Several tokens in one request are all permitted, or the request is refused.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Method};

use super::reject::{Code, Rejection};
use super::slots::{Places, Spot, cookie, json, multipart, pairs};
use super::target::Target;
use super::whole::{Kind, Whole};
use crate::model::{Scheme, Slot, Timestamp, TokenHash};
use crate::policy::path;
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Registry;
use crate::vault::key::Key;

/// A token in a slot of its key, for a host of its key, in a live session.
pub struct Found {
    /// The token and what it leads to.
    pub token: Arc<LiveToken>,
    /// Its key at this moment.
    pub key: Arc<Key>,
    /// Where it stands.
    pub slot: Slot,
    /// Which bytes are swapped, the token with its shape: of the header's value, of the decoded pair
    /// inside Basic, of the query, of the path, of the body.
    pub range: Range<usize>,
}

impl Found {
    /// The header that holds the token, if it is one.
    pub fn header(&self) -> Option<&HeaderName> {
        header_of(&self.slot)
    }
}

/// The header in which the slot is, if it is one; a cookie is in one with others.
pub fn header_of(slot: &Slot) -> Option<&HeaderName> {
    match slot {
        Slot::Cookie(_) => Some(&COOKIE),
        slot => slot.header(),
    }
}

/// What the request holds by way of credentials.
#[derive(Default)]
pub struct Identified {
    /// Tokens to swap. Of those that share a text, the last in it comes first, so that a swap leaves
    /// the other ranges as they are.
    pub found: Vec<Found>,
    /// Whether a credential slot of this host holds something that is no token of ours.
    pub foreign: bool,
    /// Whether the path is like one with a credential in it. Beside a token it may as well be one that
    /// only looks alike.
    pub alike: bool,
    /// The methods for which the request is to be taken instead of its own, if it names any.
    pub instead: Vec<Method>,
    /// Tokens outside every slot, forwarded as inert text: at most one for each header, the path, the
    /// query and the body.
    pub inert: u32,
}

/// What a request's credentials are looked for with.
pub struct Finder<'a> {
    /// The live view.
    pub registry: &'a Registry,
    /// The keys bound to the host.
    pub bound: &'a [Arc<Key>],
    /// Where they may stand beside headers.
    pub places: &'a Places,
    /// Where the request goes.
    pub target: &'a Target,
    /// Whose proxy credentials came with it.
    pub session: Option<&'a Arc<LiveSession>>,
    /// The time.
    pub now: Timestamp,
}

/// The first token that is known here, whether or not it may be used: who asked for what is refused.
pub fn first_known(
    headers: &HeaderMap,
    target: &Target,
    body: Option<&Whole>,
    registry: &Registry,
) -> Option<Arc<LiveToken>> {
    let in_headers = headers.iter().filter_map(|(name, value)| Some(locate(name, value.as_bytes())?.hash));
    let texts = [Some(target.path_and_query.as_str().as_bytes()), body.map(|body| &body.bytes[..])];
    let in_texts = texts.into_iter().flatten().filter_map(|text| Some(TokenHash::find(text)?.1));
    in_headers.chain(in_texts).find_map(|hash| registry.token(&hash))
}

/// A token's place in a header's value and its hash.
struct Located<'a> {
    hash: TokenHash,
    /// Of the token itself, from `spt_` on.
    core: Range<usize>,
    /// The text in which `core` counts: the value, or the decoded Basic pair.
    text: Cow<'a, [u8]>,
    /// The slot that it stands in by itself, whether or not its key names it.
    slot: Slot,
}

/// The first token of the value and the slot in which it stands.
fn locate<'a>(name: &HeaderName, value: &'a [u8]) -> Option<Located<'a>> {
    if name == AUTHORIZATION
        && let Some(pair) = strip_scheme(value, b"basic ")
        && let Ok(text) = BASE64.decode(pair.trim_ascii())
    {
        let (core, hash) = TokenHash::find(&text)?;
        let colon = memchr::memchr(b':', &text).unwrap_or(text.len());
        let slot = if core.end <= colon { Slot::BasicUser } else { Slot::BasicPassword };
        return Some(Located { hash, core, text: text.into(), slot });
    }
    let (core, hash) = TokenHash::find(value)?;
    Some(as_it_stands(name, value, core, hash))
}

/// Whether a token stands in this `Authorization`, as it is or encoded.
pub fn in_authorization(value: &[u8]) -> bool {
    locate(&AUTHORIZATION, value).is_some()
}

/// The place of a token that stands in a value as it is.
fn as_it_stands<'a>(name: &HeaderName, value: &'a [u8], core: Range<usize>, hash: TokenHash) -> Located<'a> {
    let slot = match name == AUTHORIZATION {
        true if strip_scheme(value, b"bearer ").is_some() || strip_scheme(value, b"token ").is_some() => Slot::Bearer,
        true if value.starts_with(b"AWS4-") => Slot::Signature,
        _ => Slot::Header(name.clone()),
    };
    Located { hash, core, text: value.into(), slot }
}

/// What follows an authentication scheme, whose name is compared without case (RFC 9110 11.1).
pub fn strip_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

impl Finder<'_> {
    /// Looks through a request's headers, path and query.
    ///
    /// # Errors
    /// A token stands in a credential slot but is unknown, over, another session's, or not for this
    /// host or slot.
    pub fn head(&self, headers: &HeaderMap) -> Result<Identified, Rejection> {
        let mut all = Identified::default();
        let mut authorizations = 0;
        let slot_headers = self.registry.slot_headers();
        for (name, value) in headers {
            if name == COOKIE && !self.places.cookies.is_empty() {
                self.cookies(&mut all, headers, value.as_bytes())?;
                continue;
            }
            // It goes with a signature, in which its token stands already, and it is never sent on.
            if self.places.signed && name == "x-amz-security-token" {
                continue;
            }
            let Some(at) = locate(name, value.as_bytes()) else {
                if !self.bound.is_empty() && name.as_str().starts_with("x-") {
                    all.instead.extend(instead(name, value.as_bytes())?);
                }
                let holds = |slot: &Slot| could_hold(slot, name, value.as_bytes());
                all.foreign |= self.bound.iter().any(|key| key.destination.slots.iter().any(holds));
                continue;
            };
            if name != AUTHORIZATION && !slot_headers.contains(name) {
                self.inert(&mut all, &at.hash);
                continue;
            }
            authorizations += u32::from(name == AUTHORIZATION);
            all.found.push(self.in_header(name, at)?);
        }
        self.query(&mut all)?;
        self.path(&mut all)?;
        if authorizations > 0 && headers.get_all(AUTHORIZATION).iter().count() > 1 {
            return Err(Rejection::new(Code::BadRequest, "more than one Authorization header"));
        }
        for one in all.found.iter().filter_map(|found| found.slot.header()) {
            if headers.get_all(one).iter().count() > 1 {
                return Err(Rejection::new(Code::BadRequest, format!("more than one {one} header")));
            }
        }
        self.one_session(&all)?;
        Ok(all)
    }

    /// Looks through a body that was read for the slots in it.
    ///
    /// # Errors
    /// As for the head; or the places in the body aren't certain, and a token may stand in one.
    pub fn body(&self, all: &mut Identified, body: &Whole) -> Result<(), Rejection> {
        let (text, first) = (&body.bytes[..], all.found.len());
        let spots = match &body.kind {
            Kind::Form => Ok(pairs::spots(text, &self.places.forms, Slot::Form)),
            Kind::Json => json::spots(text, &self.places.pointers),
            Kind::Multipart(boundary) => multipart::spots(text, boundary.as_bytes(), &self.places.fields),
        };
        match spots {
            Ok(spots) => self.named(all, text, spots)?,
            // What is settled in the head doesn't need the body, unless a token is meant in it.
            Err(_) if !all.found.is_empty() && TokenHash::find(text).is_none() => {}
            Err(why) => {
                let why =
                    format!("the body can't be searched for the slots that keys of this host have in it: {}", why.0);
                return Err(Rejection::new(Code::BadRequest, why));
            }
        }
        self.elsewhere(all, text, first);
        self.one_session(all)
    }

    /// All tokens that are swapped are of one session.
    fn one_session(&self, all: &Identified) -> Result<(), Rejection> {
        let mut sessions = all.found.iter().map(|found| found.token.session.id);
        let first = sessions.next();
        match sessions.all(|session| Some(session) == first) {
            true => Ok(()),
            false => Err(Rejection::new(Code::TokenMisplaced, "the request holds tokens of different sessions")),
        }
    }

    fn inert(&self, all: &mut Identified, hash: &TokenHash) {
        all.inert += 1;
        if let Some(token) = self.registry.token(hash) {
            token.note_inert();
        }
    }

    /// Counts a token of this text that is not among those from `first` on, which are swapped in it.
    fn elsewhere(&self, all: &mut Identified, text: &[u8], first: usize) {
        let mut at = 0;
        while let Some((core, hash)) = TokenHash::find(&text[at..]) {
            let core = at + core.start..at + core.end;
            at = core.end;
            let swapped = |found: &Found| found.range.start <= core.start && core.end <= found.range.end;
            if !all.found[first..].iter().any(swapped) {
                return self.inert(all, &hash);
            }
        }
    }

    /// The one token of a request, which stands in this header as it is, and where in its value.
    ///
    /// # Errors
    /// As for [`Finder::head`].
    pub fn only(
        &self,
        name: &HeaderName,
        value: &[u8],
        core: Range<usize>,
        hash: TokenHash,
    ) -> Result<Found, Rejection> {
        self.in_header(name, as_it_stands(name, value, core, hash))
    }

    fn in_header(&self, name: &HeaderName, at: Located<'_>) -> Result<Found, Rejection> {
        let (token, key) = self.follow(&at.hash)?;
        let range = with_shape(&key, &at.text, at.core);
        let here = |slot: &&Slot| slot.header() == Some(name) && slot.is_basic() == at.slot.is_basic();
        let named = || key.destination.slots.iter().filter(here);
        match named().find(|slot| alone(slot, &at.text, &range)) {
            Some(slot) => Ok(Found { token, slot: slot.clone(), key, range }),
            None if named().any(|slot| *slot == at.slot) => Err(part_of_more()),
            None => Err(not_a_slot(&at.slot, &key)),
        }
    }

    fn cookies(&self, all: &mut Identified, headers: &HeaderMap, text: &[u8]) -> Result<(), Rejection> {
        let first = all.found.len();
        self.named(all, text, cookie::spots(text, &self.places.cookies))?;
        if all.found.len() > first && headers.get_all(COOKIE).iter().count() > 1 {
            return Err(Rejection::new(Code::BadRequest, "more than one Cookie header"));
        }
        self.elsewhere(all, text, first);
        Ok(())
    }

    fn query(&self, all: &mut Identified) -> Result<(), Rejection> {
        let Some(query) = self.target.path_and_query.query() else { return Ok(()) };
        let first = all.found.len();
        if self.places.signed
            && let Some(at) = query.match_indices(CREDENTIAL).map(|(at, _)| at).find(|at| is_name_at(query, *at))
        {
            return self.presigned(all, query, at);
        }
        if !self.places.query.is_empty() {
            self.named(all, query.as_bytes(), pairs::spots(query.as_bytes(), &self.places.query, Slot::Query))?;
        }
        self.elsewhere(all, query.as_bytes(), first);
        Ok(())
    }

    /// Takes in the access key id of a presigned URL.
    fn presigned(&self, all: &mut Identified, query: &str, at: usize) -> Result<(), Rejection> {
        let credential = query[at..].split('&').next().unwrap_or_default();
        let Some((core, hash)) = TokenHash::find(credential.as_bytes()) else {
            all.foreign = true;
            return Ok(());
        };
        let (token, key) = self.follow(&hash)?;
        if !key.destination.slots.contains(&Slot::Presigned) {
            return Err(not_a_slot(&Slot::Presigned, &key));
        }
        let range = with_shape(&key, credential.as_bytes(), core);
        if range.start != CREDENTIAL.len() || !credential[range.end..].starts_with(['/', '%']) {
            return Err(part_of_more());
        }
        all.found.push(Found { token, key, slot: Slot::Presigned, range: at + range.start..at + range.end });
        Ok(())
    }

    fn path(&self, all: &mut Identified) -> Result<(), Rejection> {
        let (path, first) = (self.target.path(), all.found.len());
        let mut holes = self.places.paths.iter().filter_map(|template| template.hole(path)).peekable();
        if holes.peek().is_some() {
            match TokenHash::find(path.as_bytes()) {
                Some((core, hash)) if holes.any(|hole| hole.start <= core.start && core.end <= hole.end) => {
                    all.found.push(self.in_path(path, core, &hash)?);
                }
                _ => all.alike = true,
            }
        }
        self.elsewhere(all, path.as_bytes(), first);
        Ok(())
    }

    fn in_path(&self, whole: &str, core: Range<usize>, hash: &TokenHash) -> Result<Found, Rejection> {
        let (token, key) = self.follow(hash)?;
        let range = with_shape(&key, whole.as_bytes(), core);
        let mut named = key.destination.slots.iter().filter_map(|slot| match slot {
            Slot::Path(template) => Some((slot, template.hole(whole)?)),
            _ => None,
        });
        let Some((slot, _)) = named.find(|(_, hole)| *hole == range) else {
            let why = format!("the token isn't where key {} has it in a path", key.name);
            return Err(Rejection::new(Code::TokenMisplaced, why));
        };
        // The segment's place counts from the path's beginning, so two servers have to count alike.
        if let Err(why) = path::normal(whole) {
            return Err(Rejection::new(Code::BadRequest, format!("{why}, so no key is put into it")));
        }
        Ok(Found { token, slot: slot.clone(), key, range })
    }

    /// Takes in the slots with a name that are in a text.
    fn named(&self, all: &mut Identified, text: &[u8], spots: Vec<Spot>) -> Result<(), Rejection> {
        let token = |spot: &Spot| TokenHash::find(&text[spot.range.clone()]);
        for (n, spot) in spots.iter().enumerate().rev() {
            let Some((core, hash)) = token(spot) else {
                all.foreign = true;
                continue;
            };
            if spots.iter().enumerate().any(|(other, s)| other != n && s.slot == spot.slot) {
                return Err(Rejection::new(Code::BadRequest, format!("the request has {} more than once", spot.slot)));
            }
            let (token, key) = self.follow(&hash)?;
            if !key.destination.slots.contains(&spot.slot) {
                return Err(not_a_slot(&spot.slot, &key));
            }
            let range = with_shape(&key, text, spot.range.start + core.start..spot.range.start + core.end);
            if range != spot.range {
                return Err(part_of_more());
            }
            all.found.push(Found { token, key, slot: spot.slot.clone(), range });
        }
        Ok(())
    }

    /// From a token in a credential slot to its key, if it may be used here and now.
    pub(super) fn follow(&self, hash: &TokenHash) -> Result<(Arc<LiveToken>, Arc<Key>), Rejection> {
        let strange = || Rejection::new(Code::TokenUnknown, "a credential slot holds a token that is not known here");
        let token = self.registry.token(hash).ok_or_else(strange)?;
        if self.session.is_some_and(|session| session.id != token.session.id) {
            return Err(Rejection::new(
                Code::TokenMisplaced,
                "the token belongs to another session than the proxy credentials",
            ));
        }
        if let Some(ended) = token.ended(self.now) {
            return Err(ended.into());
        }
        // The key as it was when the host's keys were looked up: the reply is searched for that version.
        match self.bound.iter().find(|key| key.id == token.key_id).map(Arc::clone) {
            Some(key) => Ok((token, key)),
            None => Err(unbound(&token, self.target)),
        }
    }
}

/// The method for which many servers take a request with this field, instead of the one that it has.
///
/// # Errors
/// It is no method, or the field names another path than the one that is decided on.
fn instead(name: &HeaderName, value: &[u8]) -> Result<Option<Method>, Rejection> {
    match name.as_str() {
        "x-http-method-override" | "x-http-method" | "x-method-override" => {
            let method = Method::from_bytes(value.trim_ascii()).map(Some);
            method.map_err(|_| Rejection::new(Code::BadRequest, format!("the {name} header names no method")))
        }
        "x-original-url" | "x-rewrite-url" => {
            let why = format!("the {name} header names another path than the one that is decided on");
            Err(Rejection::new(Code::BadRequest, why))
        }
        _ => Ok(None),
    }
}

/// Whether a credential that is no token could stand in this slot, in a header with this value.
fn could_hold(slot: &Slot, name: &HeaderName, value: &[u8]) -> bool {
    slot.header() == Some(name)
        && match slot {
            // `Authorization` holds nothing but credentials.
            Slot::HeaderPart(_, template) => name == AUTHORIZATION || template.could_be(value),
            _ => true,
        }
}

pub(super) fn not_a_slot(slot: &Slot, key: &Key) -> Rejection {
    Rejection::new(Code::TokenMisplaced, format!("{slot} is not a slot of key {}", key.name))
}

pub(super) fn part_of_more() -> Rejection {
    Rejection::new(Code::TokenMisplaced, "the token is part of a longer text in its slot")
}

fn unbound(token: &LiveToken, target: &Target) -> Rejection {
    let Some(key) = token.key() else { return Rejection::new(Code::KeyDisabled, "the token's key was deleted") };
    let authority = &target.authority;
    let why = match target.scheme {
        Scheme::Https => format!("{authority} is not a destination of key {}", key.name),
        Scheme::Http => format!("key {} doesn't travel in clear text to {authority}", key.name),
    };
    Rejection::new(Code::HostNotAllowed, why)
}

/// The token with its key's shape around it, if that is there.
pub(super) fn with_shape(key: &Key, text: &[u8], core: Range<usize>) -> Range<usize> {
    let (prefix, suffix) = (key.shape.prefix.as_bytes(), key.shape.suffix.as_bytes());
    let whole = core.start.checked_sub(prefix.len()).map(|start| start..core.end + suffix.len());
    let fits =
        |range: &Range<usize>| text.get(range.clone()).is_some_and(|t| t.starts_with(prefix) && t.ends_with(suffix));
    whole.filter(fits).unwrap_or(core)
}

/// Whether a parameter's name begins here.
fn is_name_at(query: &str, at: usize) -> bool {
    query[..at].is_empty() || query[..at].ends_with('&')
}

/// What the access key id of a presigned URL stands behind.
const CREDENTIAL: &str = "X-Amz-Credential=";

/// Whether the token stands in the slot as it has to: alone, or in the text that the slot names.
fn alone(slot: &Slot, text: &[u8], range: &Range<usize>) -> bool {
    let (before, whole_after) = (&text[..range.start], &text[range.end..]);
    let after = whole_after.trim_ascii();
    match slot {
        Slot::Bearer => {
            before.iter().filter(|b| **b == b' ').count() >= 1 && before.ends_with(b" ") && {
                let scheme = before.trim_ascii();
                (scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"token")) && after.is_empty()
            }
        }
        Slot::Header(_) => before.trim_ascii().is_empty() && after.is_empty(),
        Slot::HeaderPart(_, template) => template.fits(before, after),
        Slot::BasicPart(template) => template.fits(before, whole_after),
        Slot::BasicUser => before.is_empty() && (after.is_empty() || after.starts_with(b":")),
        Slot::BasicPassword => {
            before.iter().filter(|b| **b == b':').count() == 1 && before.ends_with(b":") && after.is_empty()
        }
        Slot::Signature => before.ends_with(b"Credential=") && whole_after.starts_with(b"/"),
        _ => false,
    }
}
