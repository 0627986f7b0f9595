//! Requests with the head of the one before them on their connection.
//!
//! Clients say the same with each request of a kind, but for how long its body is. What was found and decided about
//! a head holds for the next one like it, as long as nothing that it was decided by has changed: the keys, the
//! policies, the routes. What may end at any time is asked each time: the session, the token, its grant and its key,
//! and whether revocations are known.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use zeroize::Zeroizing;

use super::ask::Extent;
use super::decide::{Decided, Ready, ready};
use crate::policy::Ruling;
use crate::proxy::authorize::facts_of;
use crate::proxy::core::{Core, Routes};
use crate::proxy::tunnel::Tunnel;
use crate::session::registry::Moment;
use crate::upstream::plain::content_length;

/// The longest head that is kept, in bytes: each open connection keeps one.
const LONGEST: usize = 2048;

/// After so many heads in a row that were unlike those before them, none is kept any more.
const UNLIKE: u8 = 4;

/// A head that was decided on, and what was decided.
pub(super) struct Again {
    pub text: Text,
    /// By which its target was read, if any.
    pub routes: Option<Weak<Routes>>,
    /// Where a key is used.
    pub ruling: Option<Ruling>,
    pub decided: Rc<Decided>,
}

/// A head as it came, with its token, after which the connection went on.
pub(super) struct Text {
    pub whole: Zeroizing<Vec<u8>>,
    /// Where in it the value of its `Content-Length` stands, if it has one.
    pub length: Option<Range<usize>>,
}

/// The last head on a connection.
#[derive(Default)]
pub(super) struct Last {
    kept: Option<Box<Again>>,
    unlike: u8,
}

impl Last {
    /// How far the request goes that begins what was read, if its head is like the last one. It is at most so long,
    /// in bytes.
    pub fn extent(&self, input: &[u8], most: usize) -> Option<Extent> {
        self.kept.as_ref()?.text.within(input, most)
    }

    /// What is decided about that request. `None` if it has to be looked at as if it were the first: then nothing has
    /// happened, and the head is kept no longer.
    pub fn decide(&mut self, core: &Rc<Core>, tunnel: &Tunnel, input: &[u8], extent: Extent) -> Option<Box<Ready>> {
        let again = self.kept.take()?;
        let ready = again.decide(core, tunnel, input, extent)?;
        *self = Self { kept: Some(again), unlike: 0 };
        Some(ready)
    }

    /// Keeps this head of so many bytes, unless it is too long or heads differ here.
    pub fn keep(&mut self, len: usize, again: impl FnOnce() -> Again) {
        self.kept = self.wants(len).then(|| Box::new(again()));
    }

    /// Whether one more head, of so many bytes, is kept.
    fn wants(&mut self, len: usize) -> bool {
        let wants = len <= LONGEST && self.unlike < UNLIKE;
        self.unlike = self.unlike.saturating_add(1);
        wants
    }
}

impl Text {
    /// How far a request goes that begins with this head, or with one that differs in the value of its
    /// `Content-Length` alone.
    fn extent(&self, input: &[u8]) -> Option<Extent> {
        let Some(at) = &self.length else {
            return input.starts_with(&self.whole).then(|| Extent::new(self.whole.len(), 0, true))?;
        };
        let (before, behind) = (self.whole.get(..at.start)?, self.whole.get(at.end..)?);
        let rest = input.strip_prefix(before)?;
        let length = rest.get(..rest.iter().position(|b| !b.is_ascii_digit())?)?;
        let body = usize::try_from(content_length(length)?).ok()?;
        let extent = Extent::new(before.len() + length.len() + behind.len(), body, true)?;
        rest.get(length.len()..)?.starts_with(behind).then_some(extent)
    }

    /// The same for a head of at most so many bytes.
    fn within(&self, input: &[u8], most: usize) -> Option<Extent> {
        self.extent(input).filter(|extent| extent.head <= most)
    }

    /// The value of the `Content-Length` of a request that begins with a head like this one, which ends there.
    fn length_of<'a>(&self, input: &'a [u8], end: usize) -> Option<&'a [u8]> {
        let at = self.length.as_ref()?;
        input.get(at.start..end.checked_sub(self.whole.len().checked_sub(at.end)?)?)
    }
}

impl Again {
    fn decide(&self, core: &Rc<Core>, tunnel: &Tunnel, input: &[u8], extent: Extent) -> Option<Box<Ready>> {
        let (shared, decided) = (&core.shared, &self.decided);
        let began = Moment::now(&*shared.clock);
        core.timed.begin_at(began.instant());
        let are_in_force = |routes: &Weak<Routes>| std::ptr::eq(routes.as_ptr(), Arc::as_ptr(&shared.routes.load()));
        let bound = decided.bound.upgrade()?;
        if !core.is_current(&bound)
            || !self.routes.as_ref().is_none_or(are_in_force)
            || tunnel.session.as_ref().is_some_and(|session| session.ended(began.time()).is_some())
        {
            return None;
        }
        let exchange = core.exchange_id_at(began.time());
        let permit = match &decided.found {
            None => None,
            Some(found) if found.token.ended(began.time()).is_some() => return None,
            Some(found) => {
                let session = &found.token.session;
                let facts = facts_of(exchange, &decided.method, &decided.target, session, &found.key, &found.slot);
                Some(self.ruling.as_ref()?.permit(&shared.policies, &facts)?)
            }
        };
        core.timed.looked_up();
        let mut ready = ready(core, tunnel, Rc::clone(decided), bound, exchange, began, permit)?;
        if let Some(length) = self.text.length_of(input, extent.head) {
            ready.other_head = decided.head.with_length(length);
        }
        Some(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::{self, Ask, Read};
    use super::*;
    use crate::proxy::settings::Settings;
    use crate::upstream::plain::Field;

    /// The head that these bytes begin with, read as if it were the first.
    fn read(input: &[u8]) -> Option<(Ask, Vec<Field>)> {
        let mut fields = Vec::new();
        match ask::read(input, &mut fields, &Settings::default().limits) {
            Read::Head(ask) => Some((ask, fields)),
            _ => None,
        }
    }

    fn kept(input: &str) -> Text {
        let (ask, fields) = read(input.as_bytes()).expect("a head");
        let whole = input.as_bytes()[..ask.extent.head].to_vec().into();
        Text { whole, length: ask.length.map(|at| fields[at].value()) }
    }

    /// A field's name and value.
    type Pair = (Vec<u8>, Vec<u8>);

    /// What a head says, but for its length.
    fn said(input: &[u8]) -> (String, Vec<u8>, Vec<Pair>, Extent) {
        let (ask, fields) = read(input).expect("a head");
        let length = fields.iter().map(|field| field.of(input)).enumerate().filter(|(at, _)| Some(*at) != ask.length);
        let others = length.map(|(_, (name, value))| (name.to_vec(), value.to_vec())).collect();
        (ask.method.to_string(), input[ask.path].to_vec(), others, ask.extent)
    }

    const HEADS: [&str; 4] = [
        "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer spt_x\r\nAccept: */*\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 12\r\nX: 1\r\n\r\n",
        "POST /a HTTP/1.1\r\ncontent-length:  7 \r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a.test\r\nX-Length: 12\r\nContent-Length:0\r\n\r\n",
    ];

    #[test]
    fn head_that_is_taken_for_the_last_one_would_be_read_like_it() {
        let (mut taken, mut all) = (0, 0);
        for head in HEADS {
            let (text, own) = (kept(head), said(head.as_bytes()));
            assert_eq!(text.extent(head.as_bytes()), Some(own.3));
            let mut changed = Vec::new();
            for at in 0..=head.len() {
                for byte in 0..=255u8 {
                    let (before, behind) = head.as_bytes().split_at(at);
                    changed.push([before, &[byte], behind].concat());
                    if let Some((_, behind)) = behind.split_first() {
                        changed.push([before, &[byte], behind].concat());
                        changed.push([before, behind].concat());
                    }
                }
            }
            for input in changed {
                all += 1;
                let Some(extent) = text.extent(&input) else { continue };
                taken += 1;
                let now = said(&input);
                assert_eq!((&now.0, &now.1, &now.2), (&own.0, &own.1, &own.2), "{}", String::from_utf8_lossy(&input));
                assert_eq!(extent, now.3, "{}", String::from_utf8_lossy(&input));
            }
        }
        assert!(taken > 100 && all > 1000 * taken / 10, "{taken} of {all}");
    }

    #[test]
    fn length_is_the_only_thing_that_may_differ_and_is_read_as_strictly_as_elsewhere() {
        let text = kept(HEADS[1]);
        let with = |length: &str| HEADS[1].replace("12", length);
        for (length, body) in [("0", 0), ("7", 7), ("007", 7), ("123456", 123_456)] {
            let input = with(length) + "more";
            let extent = text.extent(input.as_bytes()).expect("the same but for its length");
            assert_eq!((extent.head, extent.body), (with(length).len(), body));
            assert_eq!(text.length_of(input.as_bytes(), extent.head), Some(length.as_bytes()));
        }
        let (input, len) = (with("123456"), with("123456").len());
        let head = |most| text.within(input.as_bytes(), most).map(|extent| extent.head);
        assert_eq!((head(len - 1), head(len)), (None, Some(len)));
        for length in
            ["", "-1", "+1", "1 1", "1,1", " 1", "1 ", "0x1", "18446744073709551616", "99999999999999999999999"]
        {
            assert_eq!(text.extent(with(length).as_bytes()), None, "{length}");
        }
        for cut in 0..HEADS[1].len() {
            assert_eq!(text.extent(&HEADS[1].as_bytes()[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn heads_that_are_never_like_the_last_one_are_not_kept_for_long() {
        let mut last = Last::default();
        assert_eq!(
            [10, 10, LONGEST + 1, LONGEST, 10, 10].map(|len| last.wants(len)),
            [true, true, false, true, false, false]
        );
        let mut last = Last::default();
        for _ in 0..1000 {
            last.wants(10);
        }
        assert!(!last.wants(10));
    }
}
