//! One normal form of paths: what is decided on is what is sent.

use std::borrow::Cow;

/// Why a path can't be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `.` or `..`, plain or encoded (RFC 3986 section 3.3).
    #[error("the path has a dot segment")]
    DotSegment,
    /// `%2f` or `%5c`: some servers read them as separators.
    #[error("the path has an encoded slash or backslash")]
    EncodedSlash,
    /// A backslash: some servers read it as a slash.
    #[error("the path has a backslash")]
    Backslash,
    /// A control character, plain or encoded.
    #[error("the path has a control character")]
    Control,
    /// `//`: some servers merge them, some don't.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `;`: some servers cut a segment there.
    #[error("the path has a matrix parameter")]
    MatrixParameter,
    /// A `%` that no two hex digits follow.
    #[error("the path has a broken percent escape")]
    BrokenEscape,
    /// It doesn't begin with a slash.
    #[error("the path doesn't begin with a slash")]
    NotAbsolute,
}

/// Percent-decodes a path for matching, and refuses whatever two servers could read differently.
///
/// # Errors
/// See [`PathError`].
pub fn normal(raw: &str) -> Result<String, PathError> {
    if raw == "*" {
        return Ok(raw.to_owned());
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut out = Vec::with_capacity(raw.len());
    let bytes = raw.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at] {
            b'\\' => return Err(PathError::Backslash),
            b';' => return Err(PathError::MatrixParameter),
            b'%' => {
                let digits = raw.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                at += 2;
                match digits.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or(PathError::BrokenEscape)? {
                    b'/' | b'\\' => return Err(PathError::EncodedSlash),
                    b'%' => return Err(PathError::BrokenEscape),
                    b';' => return Err(PathError::MatrixParameter),
                    byte => byte,
                }
            }
            byte => byte,
        };
        if byte < 0x20 || byte == 0x7f {
            return Err(PathError::Control);
        }
        out.push(byte);
        at += 1;
    }
    let path = String::from_utf8(out).map_err(|_| PathError::BrokenEscape)?;
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(PathError::DotSegment),
            "" if segments.peek().is_some() => return Err(PathError::EmptySegment),
            _ => {}
        }
    }
    Ok(path)
}

/// A normal path as those servers read it that don't tell capitals from small letters, nor a path with a
/// slash at its end from one without.
#[must_use]
pub fn folded(path: &str) -> Cow<'_, str> {
    let trimmed = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
    match trimmed.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        true => trimmed.to_lowercase().into(),
        false => trimmed.into(),
    }
}

/// A normal path, as it is and as those servers read it that [`folded`] is about.
pub struct Read<'a> {
    /// As it is.
    pub normal: &'a str,
    /// Folded.
    pub folded: Cow<'a, str>,
    /// How each of the two begins.
    begins: (u64, u64),
}

impl<'a> Read<'a> {
    /// Both of this normal path.
    #[must_use]
    pub fn of(normal: &'a str) -> Self {
        let folded = folded(normal);
        let begins = (begin(normal), begin(&folded));
        Self { normal, folded, begins }
    }
}

/// The first eight bytes behind a path's slash, with zeros behind a shorter one: no normal path has any.
fn begin(path: &str) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(path.bytes().skip(1)) {
        *to = from;
    }
    u64::from_le_bytes(first)
}

/// How the paths begin that may fit, so that most of those that don't are told by one comparison.
#[derive(Debug, Clone, Copy, Default)]
pub struct Front {
    begin: u64,
    /// Which of its bytes count.
    mask: u64,
    /// Whether it is compared with the folded path.
    folded: bool,
}

impl Front {
    /// Of a rule with these patterns, which are `folded` or not.
    #[must_use]
    pub fn of(patterns: &[Pattern], folded: bool) -> Self {
        let [pattern] = patterns else { return Self::default() };
        let literal = pattern.literal();
        let counts = literal.len().min(8) as u32;
        let mask = u64::MAX.checked_shr(64 - 8 * counts).unwrap_or(0);
        Self { begin: begin(&format!("/{literal}")) & mask, mask, folded }
    }

    /// Whether the path may fit.
    #[must_use]
    pub fn may_fit(&self, path: &Read<'_>) -> bool {
        let begins = if self.folded { path.begins.1 } else { path.begins.0 };
        begins & self.mask == self.begin
    }
}

/// A path pattern: `*` is any text within a segment, `**` is zero or more whole segments.
#[derive(Debug, Clone)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Any,
    Segment(Vec<String>),
}

impl Pattern {
    /// Reads a pattern; it begins with `/`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("a path begins with '/'")?;
        if normal(text).is_err() {
            return Err(
                "a path is written in normal form: no dot segments, '//', ';', backslashes or escapes of them".into()
            );
        }
        rest.split('/')
            .map(|segment| match segment {
                "**" => Ok(Part::Any),
                s if s.contains("**") => Err("'**' stands for whole segments: write '/**'".to_owned()),
                s => Ok(Part::Segment(s.split('*').map(str::to_owned).collect())),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What follows the slash in every path that fits.
    fn literal(&self) -> String {
        let mut literal = String::new();
        for (at, part) in self.0.iter().enumerate() {
            let Part::Segment(pieces) = part else { break };
            if at > 0 {
                literal.push('/');
            }
            literal.extend(pieces.first().map(String::as_str));
            if pieces.len() > 1 {
                break;
            }
        }
        literal
    }

    /// Whether the normal path fits.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix('/').is_some_and(|rest| fits(&self.0, rest))
    }
}

/// Glob over segments in linear space: remembers the last `**` and goes on from there.
fn fits(mut parts: &[Part], path: &str) -> bool {
    // What is left of the path, and from where a `**` that came by takes one segment more.
    let (mut left, mut retry) = (Some(path), None);
    while let Some(rest) = left {
        if let [Part::Any, after @ ..] = parts {
            retry = Some((after, rest));
            parts = after;
        } else if let [Part::Segment(pieces), after @ ..] = parts
            && let Some(next) = behind(pieces, rest)
        {
            left = next;
            parts = after;
        } else {
            let Some((after, from)) = retry else { return false };
            left = first(from).1;
            parts = after;
            retry = left.map(|from| (after, from));
        }
    }
    parts.iter().all(|part| matches!(part, Part::Any))
}

/// The first segment, and what is behind its slash.
fn first(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)))
}

/// What is behind the path's first segment, if the segment fits.
fn behind<'a>(pieces: &[String], path: &'a str) -> Option<Option<&'a str>> {
    let [whole] = pieces else {
        let (segment, rest) = first(path);
        return segment_fits(pieces, segment).then_some(rest);
    };
    let rest = path.strip_prefix(whole.as_str())?;
    match rest.strip_prefix('/') {
        None => rest.is_empty().then_some(None),
        rest => Some(rest),
    }
}

fn segment_fits(pieces: &[String], segment: &str) -> bool {
    let [first, middle @ .., last] = pieces else { return false };
    let Some(rest) = segment.strip_prefix(first.as_str()) else { return false };
    let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
    for piece in middle {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_segments() {
        for (pattern, path, fit) in [
            ("/**/b", "/b", true),
            ("/v1/**/b", "/v1/b", true),
            ("/v1/**/b", "/v", false),
            ("/a", "/", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/*", "/", true),
            ("/abcdefgh", "/abcdefgh", true),
            ("/abcdefgh", "/abcdefg", false),
            ("/abcdefghi", "/abcdefghj", false),
            ("/v1/charges", "/v1/charges", true),
            ("/v1/charges", "/v1/charges/", false),
            ("/v1/charges", "/v1/charges/ch_1", false),
            ("/v1/refunds/**", "/v1/refunds", true),
            ("/v1/refunds/**", "/v1/refunds/a/b", true),
            ("/v1/refunds/**", "/v1/refundsx", false),
            ("/**", "/", true),
            ("/**/git-upload-pack", "/a/b.git/git-upload-pack", true),
            ("/**/a/**/b", "/a/x/a/y/b", true),
            ("/**/a/**/b", "/a/x/a/y/b/c", false),
            ("/**/a", "/a/b", false),
            ("/a/**", "/", false),
            ("/repos/*/issues", "/repos/a/issues", true),
            ("/repos/*/issues", "/repos/a/b/issues", false),
            ("/files/*.txt", "/files/a.txt", true),
            ("/files/*.txt", "/files/a.txtx", false),
        ] {
            let parsed = Pattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(path), fit, "{pattern} {path}");
            let (read, patterns) = (Read::of(path), [parsed]);
            assert!(!fit || Front::of(&patterns, false).may_fit(&read), "{pattern} {path}");
            let folding = [Pattern::parse(&folded(pattern)).expect(pattern)];
            let folds = folding[0].matches(&read.folded);
            assert!(!folds || Front::of(&folding, true).may_fit(&read), "{pattern} {path}");
        }
    }

    #[test]
    fn front_tells_most_paths_apart() {
        let front = |pattern: &str| Front::of(&[Pattern::parse(pattern).expect(pattern)], false);
        for (pattern, path) in [("/admin/**", "/v1/chat"), ("/v1/refunds", "/v1/chat"), ("/a/b", "/a"), ("/ab", "/a")] {
            assert!(!front(pattern).may_fit(&Read::of(path)), "{pattern} {path}");
        }
        for (pattern, path) in [("/**", "/x"), ("/*", "/x"), ("/v1/models/*", "/v1/models/gpt"), ("/a/**", "/a")] {
            assert!(front(pattern).may_fit(&Read::of(path)), "{pattern} {path}");
        }
        let denied = Front::of(&[Pattern::parse(&folded("/Admin/**")).expect("a pattern")], true);
        assert!(denied.may_fit(&Read::of("/ADMIN/x")));
    }

    #[test]
    fn folded_path_has_neither_capitals_nor_a_slash_at_its_end() {
        for (path, folded_so) in [("/", "/"), ("/a/", "/a"), ("/V1/\u{c9}/b", "/v1/\u{e9}/b"), ("/a/b", "/a/b")] {
            assert_eq!(folded(path), folded_so);
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        use PathError as E;
        for (path, why) in [
            ("/v1/../admin", E::DotSegment),
            ("/v1/%2e%2e/admin", E::DotSegment),
            ("/v1/%2E/admin", E::DotSegment),
            ("/v1//admin", E::EmptySegment),
            ("/v1/a%2fb", E::EncodedSlash),
            ("/v1/a%5Cb", E::EncodedSlash),
            ("/v1\\admin", E::Backslash),
            ("/v1/a;x=1", E::MatrixParameter),
            ("/v1/a%3bx", E::MatrixParameter),
            ("/v1/a%00", E::Control),
            ("/v1/a%0d%0a", E::Control),
            ("/v1/%zz", E::BrokenEscape),
            ("/v1/%252e", E::BrokenEscape),
            ("v1", E::NotAbsolute),
        ] {
            assert_eq!(normal(path), Err(why), "{path}");
        }
        assert_eq!(normal("/v1/caf%C3%A9").as_deref(), Ok("/v1/café"));
    }
}
