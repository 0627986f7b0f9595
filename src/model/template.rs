//! Text around a token: what stands before and behind it in its slot.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Where the token stands in a template.
const HOLE: &str = "{}";

/// A value with the token in it, such as `GenieKey {}` or `Token token="{}"*`: `{}` is the token, `*`
/// any text, none included, and the rest stands as it is written, in upper or lower case (the names of
/// authentication schemes are compared without case, RFC 9110 section 11.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Template(Arc<str>);

impl Template {
    /// Reads a template: visible ASCII and inner spaces, with one `{}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.matches(HOLE).count() != 1 {
            return Err("the token's place is written {}, once");
        }
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) || text.trim() != text {
            return Err("it is visible ASCII, with spaces only inside");
        }
        Ok(Self(text.into()))
    }

    fn halves(&self) -> (&str, &str) {
        self.0.split_once(HOLE).unwrap_or((&self.0, ""))
    }

    /// Whether a token may stand between these two texts.
    #[must_use]
    pub fn fits(&self, before: &[u8], after: &[u8]) -> bool {
        let (front, back) = self.halves();
        is_like(front, before) && is_like(back, after)
    }

    /// Whether the text is one in which a token, or another credential in its place, could stand.
    #[must_use]
    pub fn could_be(&self, text: &[u8]) -> bool {
        let (front, back) = self.halves();
        is_like(&format!("{front}*{back}"), text)
    }

    /// What stands before and behind the token where nobody chose it; `None` if the template leaves
    /// that open.
    #[must_use]
    pub fn around(&self) -> Option<(&str, &str)> {
        (!self.0.contains('*')).then(|| self.halves())
    }

    /// The template with this in the token's place; `None` if it leaves open what else stands there.
    #[must_use]
    pub fn with(&self, token: &str) -> Option<String> {
        self.around().map(|(before, after)| format!("{before}{token}{after}"))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the text is as the pattern says, in which `*` is any text; without regard to case.
fn is_like(pattern: &str, text: &[u8]) -> bool {
    let mut pieces = pattern.split('*').map(str::as_bytes);
    let first = pieces.next().unwrap_or_default();
    let Some((front, mut rest)) = text.split_at_checked(first.len()) else { return false };
    if !front.eq_ignore_ascii_case(first) {
        return false;
    }
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        match (0..=rest.len()).find(|at| starts(&rest[*at..], piece)) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest[rest.len() - last.len()..].eq_ignore_ascii_case(last)
}

fn starts(text: &[u8], piece: &[u8]) -> bool {
    text.get(..piece.len()).is_some_and(|front| front.eq_ignore_ascii_case(piece))
}

/// The beginning of a path with the token in its last segment, such as `/bot{}`: `*` is one whole
/// segment, whatever it is, and what comes behind the token's segment is free.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathTemplate(Arc<str>);

impl PathTemplate {
    /// Reads a template: segments of unreserved characters (RFC 3986 section 2.3), `:` and `@`, of
    /// which the last one has one `{}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (before, last) = text.rsplit_once('/').ok_or("a path begins with /")?;
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:@".contains(&b));
        let mut fixed = before.split('/');
        if fixed.next() != Some("") {
            return Err("a path begins with /");
        }
        if !fixed.all(|part| part == "*" || (plain(part) && !matches!(part, "" | "." | ".."))) {
            return Err("its segments are plain text or *");
        }
        match last.split_once(HOLE) {
            Some((front, back)) if plain(front) && plain(back) => Ok(Self(text.into())),
            _ => Err("the token's place is written {}, once, in the last segment"),
        }
    }

    /// Where the token stands in a path that begins like the template: what is there, token or not.
    #[must_use]
    pub fn hole(&self, path: &str) -> Option<Range<usize>> {
        let mut at = 0;
        let mut segments = path.split('/');
        for part in self.0.split('/') {
            let segment = segments.next()?;
            match part.split_once(HOLE) {
                Some((front, back)) => {
                    let inner = segment.strip_prefix(front)?.strip_suffix(back)?;
                    let start = at + front.len();
                    return (!inner.is_empty()).then(|| start..start + inner.len());
                }
                None if part == "*" && !segment.is_empty() => {}
                None if part == segment => {}
                None => return None,
            }
            at += segment.len() + 1;
        }
        None
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_fits_only_where_the_template_has_its_place() {
        for (template, text, fit) in [
            ("GenieKey {}", "GenieKey <T>", true),
            ("GenieKey {}", "geniekey <T>", true),
            ("GenieKey {}", "GenieKey <T> ", false),
            ("GenieKey {}", "Bearer <T>", false),
            ("GenieKey {}", "<T>", false),
            ("Token token={}", "Token token=<T>", true),
            ("Token token=\"{}\"", "Token token=\"<T>\"", true),
            ("Token *token=\"{}\"", "Token id=\"1\", token=\"<T>\"", true),
            ("Token *token=\"{}\"", "Token id=\"1\", tok=\"<T>\"", false),
            ("{}*", "<T>, more", true),
            ("{}*", "more, <T>", false),
            ("*{}*", "any<T>thing", true),
            ("a*b*{}", "a--b--b<T>", true),
            ("a*b*{}", "a---<T>", false),
        ] {
            let (before, after) = text.split_once("<T>").expect("a token");
            let template = Template::parse(template).expect("a template");
            assert_eq!(template.fits(before.as_bytes(), after.as_bytes()), fit, "{template} {text}");
            assert!(!fit || template.could_be(text.as_bytes()), "{template} {text}");
        }
    }

    #[test]
    fn template_that_is_none_is_refused() {
        for text in ["", "GenieKey", "{}{}", "a {}\r\nx: y", " {}", "{} ", "ü{}"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        for text in
            ["", "bot{}", "/bot", "/{}/x", "/../{}", "/a//{}", "/a*/{}", "/a%2f/{}", "/a?b={}", "/{}{}", "/a;b/{}"]
        {
            assert!(PathTemplate::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn segment_of_a_path_is_found_by_what_stands_before_it() {
        for (template, path, hole) in [
            ("/bot{}", "/bot123/sendMessage", Some("123")),
            ("/bot{}", "/bot123", Some("123")),
            ("/bot{}", "/bot/sendMessage", None),
            ("/bot{}", "/x/bot123", None),
            ("/bot{}", "//bot123", None),
            ("/file/bot{}", "/file/bot123/a/b", Some("123")),
            ("/api/webhooks/*/{}", "/api/webhooks/77/abc?x", Some("abc?x")),
            ("/api/webhooks/*/{}", "/api/webhooks//abc", None),
            ("/v3/{}.json", "/v3/abc.json/x", Some("abc")),
            ("/v3/{}", "/v3", None),
        ] {
            let template = PathTemplate::parse(template).expect("a template");
            assert_eq!(template.hole(path).map(|range| &path[range]), hole, "{template} {path}");
        }
    }
}
