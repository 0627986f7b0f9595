//! The head of a request as it came: where its parts are, and whether it is one of a plain exchange.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::Method;

use crate::proxy::coding;
use crate::proxy::settings::Limits;
use crate::upstream::plain::{Field, content_length};

/// A request's head. Ranges are of what was read.
pub(super) struct Ask {
    pub method: Method,
    /// Path and query.
    pub path: Range<usize>,
    /// The one Host field, by its place among the fields.
    pub host: usize,
    /// Whether it says which codings a reply may have.
    pub codings: bool,
    /// Whether a reply as it asks for could be searched for keys: whole, and in codings that are decoded.
    pub searchable: bool,
    /// Its Content-Length field, if it has one.
    pub length: Option<usize>,
    pub extent: Extent,
}

/// How far a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The head's length, in bytes.
    pub head: usize,
    /// The body's length, in bytes.
    pub body: usize,
    /// Whether the connection goes on after it.
    pub lasts: bool,
}

impl Extent {
    /// `None` where nobody can count so far.
    pub fn new(head: usize, body: usize, lasts: bool) -> Option<Self> {
        head.checked_add(body)?;
        Some(Self { head, body, lasts })
    }

    /// The length of head and body, in bytes.
    pub fn len(&self) -> usize {
        self.head.saturating_add(self.body)
    }
}

/// What was read.
pub(super) enum Read {
    /// A head that fits, and its fields.
    Head(Ask),
    /// A head like the last one.
    Again(Extent),
    /// The beginning of a head.
    Part,
    /// Something that isn't of a plain exchange.
    Unfit,
}

/// How many fields are looked at without an allocation; with more it isn't plain.
const FIELDS: usize = 48;

/// What a field is to a plain exchange.
#[derive(PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes on as it is.
    Passes,
    Host,
    Length,
    Connection,
    AcceptEncoding,
    Cookie,
    /// It asks for a part, or is a condition on parts.
    Part,
    /// A hop's, another name for the method or the path, or part of a signature: there is more to decide.
    Unfit,
}

/// What a field with this name is.
pub(super) fn kind(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let unfit = match name.len() {
        2 => is("te"),
        4 if is("host") => return Kind::Host,
        5 if is("range") => return Kind::Part,
        6 if is("cookie") => return Kind::Cookie,
        6 => is("expect"),
        7 => is("upgrade") || is("trailer"),
        8 if is("if-match") || is("if-range") => return Kind::Part,
        10 if is("connection") => return Kind::Connection,
        10 => is("keep-alive"),
        13 => is("x-http-method") || is("x-rewrite-url"),
        14 if is("content-length") => return Kind::Length,
        14 => is("http2-settings") || is("x-original-url"),
        15 if is("accept-encoding") => return Kind::AcceptEncoding,
        16 => is("proxy-connection"),
        17 => is("transfer-encoding") || is("x-method-override"),
        19 => is("proxy-authorization"),
        20 => is("x-amz-security-token"),
        22 => is("x-http-method-override"),
        _ => false,
    };
    if unfit { Kind::Unfit } else { Kind::Passes }
}

/// Reads a head; its fields replace those there are.
pub(super) fn read(input: &[u8], fields: &mut Vec<Field>, limits: &Limits) -> Read {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(input, &mut room) {
        Ok(httparse::Status::Complete(head)) if head <= limits.head_bytes => head,
        Ok(httparse::Status::Partial) if input.len() < limits.head_bytes => return Read::Part,
        _ => return Read::Unfit,
    };
    match sorted(input, head, &request, fields, limits) {
        Some(ask) => Read::Head(ask),
        None => Read::Unfit,
    }
}

fn sorted(
    input: &[u8],
    head: usize,
    request: &httparse::Request<'_, '_>,
    fields: &mut Vec<Field>,
    limits: &Limits,
) -> Option<Ask> {
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    let never = |method: &str| method.eq_ignore_ascii_case("trace") || method.eq_ignore_ascii_case("connect");
    let path = request.path?;
    let readable = |b: u8| (0x21..0x7f).contains(&b) && b != b'#';
    if request.version != Some(1)
        || request.headers.len() > limits.headers
        || never(method.as_str())
        || !path.starts_with('/')
        || !path.bytes().all(readable)
    {
        return None;
    }
    fields.clear();
    let (mut host, mut body, mut codings, mut cookies, mut lasts) = (None, None, false, false, true);
    let (mut searchable, mut length) = (true, None);
    for (at, field) in request.headers.iter().enumerate() {
        let again = match kind(field.name.as_bytes()) {
            Kind::Passes => false,
            Kind::Unfit => true,
            Kind::Host => host.replace(at).is_some(),
            Kind::Length => {
                length = Some(at);
                body.replace(usize::try_from(content_length(field.value)?).ok()?).is_some()
            }
            Kind::AcceptEncoding => {
                searchable &= !std::mem::replace(&mut codings, true) && coding::all_decoded(field.value);
                false
            }
            Kind::Part => {
                searchable = false;
                false
            }
            Kind::Cookie => std::mem::replace(&mut cookies, true),
            Kind::Connection => {
                let close = field.value.eq_ignore_ascii_case(b"close");
                lasts &= !close;
                !close && !field.value.eq_ignore_ascii_case(b"keep-alive")
            }
        };
        if again {
            return None;
        }
        fields.push(Field::new(field, input)?);
    }
    let start = path.as_ptr().addr().checked_sub(input.as_ptr().addr())?;
    let (path, body) = (start..start + path.len(), body.unwrap_or(0));
    let extent = Extent::new(head, body, lasts)?;
    Some(Ask { method, path, host: host?, codings, searchable, length, extent })
}
