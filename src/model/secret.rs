//! A value that must never be shown.

use std::fmt;

use zeroize::Zeroize;

/// A secret value: wiped when dropped, and without `Display`, `Clone` or `Serialize`.
///
/// `Debug` prints `[redacted]`. The one way to the value is [`Secret::expose`], which is easy to
/// search for.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in custody.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. The caller keeps it out of logs, errors and replies.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("sk-live-1".to_owned())), "[redacted]");
    }
}
