//! Which known word a mistyped one may be meant for.

/// The nearest of these words, if one is near enough to be what was meant: at most two letters
/// differ, and fewer than half of them.
#[must_use]
pub fn nearest<'a>(wanted: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long text is no slip of the hand, and comparing takes the product of the lengths.
    const LONGEST: usize = 100;
    if wanted.len() > LONGEST {
        return None;
    }
    let near = among.into_iter().map(|word| (distance(word, wanted), word)).min_by_key(|(far, _)| *far);
    near.filter(|(far, _)| *far <= 2 && far * 2 < wanted.len()).map(|(_, word)| word)
}

/// How many letters have to be changed, added, taken out or swapped with their neighbour to make
/// one text of the other (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slip_of_the_hand_finds_its_word_and_another_word_does_not() {
        let words = ["anthropic", "github", "openai", "stripe"];
        for (wanted, found) in [
            ("opnai", Some("openai")),
            ("oepnai", Some("openai")),
            ("openaii", Some("openai")),
            ("anthropci", Some("anthropic")),
            ("gihtub", Some("github")),
            ("v1", None),
            ("", None),
            ("slack", None),
        ] {
            assert_eq!(nearest(wanted, words), found, "{wanted}");
        }
        assert_eq!(nearest(&"openai".repeat(1000), words), None);
    }
}
