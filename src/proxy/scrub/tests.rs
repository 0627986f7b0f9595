use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::*;

const SECRET: &[u8] = b"sk-live-51H/8x+Q\"z9&AbCdEf";

fn set() -> Arc<PatternSet> {
    let mut builder = PatternSet::builder(&[7; 32]);
    builder.add(SECRET);
    Arc::new(builder.build())
}

fn flat(pieces: &VecDeque<Bytes>) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn run(pieces: &[&[u8]]) -> (Vec<u8>, u32) {
    let mut scrubber = Scrubber::new(set());
    let mut out = VecDeque::new();
    for piece in pieces {
        scrubber.push(Bytes::copy_from_slice(piece), &mut out);
    }
    scrubber.finish(&mut out);
    (flat(&out), scrubber.hits().all())
}

#[test]
fn secret_split_anywhere_is_masked_and_lengths_hold() {
    let text = [b"before ".as_slice(), SECRET, b" after"].concat();
    for cut in 0..=text.len() {
        let (out, hits) = run(&[&text[..cut], &text[cut..]]);
        assert_eq!(out, [b"before ".as_slice(), &vec![MASK; SECRET.len()], b" after"].concat(), "cut at {cut}");
        assert_eq!(hits, 1);
    }
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(run(&bytes).1, 1);
}

#[test]
fn encoded_secret_is_masked_at_every_alignment() {
    for before in ["", "a", "ab", "abc"] {
        let text = [before.as_bytes(), SECRET, b"xyz"].concat();
        for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            assert_eq!(run(&[encoded.as_bytes()]).1, 1, "{before:?}");
        }
    }
    for encoded in [hex::encode(SECRET), hex::encode_upper(SECRET)] {
        assert_eq!(run(&[encoded.as_bytes()]).1, 1, "{encoded}");
    }
}

#[test]
fn secret_is_found_however_its_characters_are_escaped_and_wherever_it_is_cut() {
    let texts = [
        "sk-live-51H%2F8x%2BQ%22z9%26AbCdEf".to_owned(),
        "sk-live-51H/8x+Q%22z9%26AbCdEf".to_owned(),
        "%73k%2dlive-51H/8x+Q\"z9&AbCdEf".to_owned(),
        "sk-live-51H/8x+Q\\\"z9&AbCdEf".to_owned(),
        "sk-live-51H\\/8x+Q\\u0022z9\\u0026AbCdEf".to_owned(),
        SECRET.iter().map(|b| format!("\\u{b:04X}")).collect(),
        SECRET.iter().map(|b| format!("%{b:02x}")).collect(),
        "sk-live-51H/8x+Q&quot;z9&amp;AbCdEf".to_owned(),
        "s&#107;-live-51H&#x2F;8x&plus;Q&#34;z9&#x26;AbCdEf".to_owned(),
    ];
    for text in &texts {
        let whole = format!("a \\n & % {text} b");
        for cut in 0..=whole.len() {
            let (out, hits) = run(&[&whole.as_bytes()[..cut], &whole.as_bytes()[cut..]]);
            let expected = format!("a \\n & % {} b", "*".repeat(text.len()));
            assert_eq!(String::from_utf8_lossy(&out), expected, "{text} cut at {cut}");
            assert_eq!(hits, 1);
        }
        let mut set = PatternSet::builder(&[7; 32]);
        set.add(SECRET);
        assert!(set.build().scrub_value(whole.as_bytes()).is_some(), "{text}");
    }
}

#[test]
fn text_full_of_escapes_passes_unchanged() {
    let text = "100% of \"x\\n\\\" & &amp; &bogus; %zz %2 \\u12 \\ud800 &#x; &#999999999; %".repeat(50);
    for size in [1, 3, 64, 1000] {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let (out, hits) = run(&pieces);
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), hits), (text.as_str(), 0));
    }
}

#[test]
fn what_cannot_become_a_match_is_not_held_back() {
    let mut scrubber = Scrubber::new(set());
    let mut out = VecDeque::new();
    scrubber.push(Bytes::from_static(b"data: hello\n\n"), &mut out);
    assert_eq!(flat(&out), b"data: hello\n\n");
    scrubber.push(Bytes::from_static(b"data: sk-li"), &mut out);
    assert_eq!(flat(&out), b"data: hello\n\ndata: ");
}

#[test]
fn what_is_held_back_for_a_short_secret_does_not_hang_on_the_text() {
    const HELD: usize = 21;
    for secret in ["pa55w0rd", "pa55w0rd-11"] {
        let set = set_of(&[secret.as_bytes(), SECRET]);
        let base64 = STANDARD_NO_PAD.encode(secret);
        let texts = [secret, &secret.to_uppercase(), &hex::encode(secret), &base64, "no front of it", "pa5", "55w0rd"];
        for text in texts {
            let text = format!("{}{text}", "x".repeat(40));
            for end in 41..text.len() {
                let (mut scrubber, mut out) = (Scrubber::new(Arc::clone(&set)), VecDeque::new());
                scrubber.push(Bytes::copy_from_slice(&text.as_bytes()[..end]), &mut out);
                assert_eq!(flat(&out).len(), end - HELD, "{}", &text[..end]);
                scrubber.push(Bytes::from_static(b"\n"), &mut out);
                assert_eq!(flat(&out).len(), end + 1, "{}: a line is over", &text[..end]);
                scrubber.push(Bytes::from_static(b"yy"), &mut out);
                assert_eq!(flat(&out).len(), end + 1, "{}", &text[..end]);
            }
        }
    }
    // One that holds control characters goes on behind them.
    let (mut scrubber, mut out) = (Scrubber::new(set_of(&[b"pass\nword"])), VecDeque::new());
    for piece in ["a line\nand pass\n", "word\n"] {
        scrubber.push(Bytes::from_static(piece.as_bytes()), &mut out);
    }
    assert!(flat(&out).len() <= 22 - HELD);
    scrubber.finish(&mut out);
    assert_eq!(flat(&out), b"a line\nand *********\n");
}

fn set_of(secrets: &[&[u8]]) -> Arc<PatternSet> {
    let mut builder = PatternSet::builder(&[7; 32]);
    secrets.iter().for_each(|secret| builder.add(secret));
    Arc::new(builder.build())
}

fn run_with(set: &Arc<PatternSet>, text: &[u8], size: usize) -> (Vec<u8>, u32) {
    let (mut scrubber, mut out) = (Scrubber::new(Arc::clone(set)), VecDeque::new());
    for piece in text.chunks(size) {
        scrubber.push(Bytes::copy_from_slice(piece), &mut out);
    }
    scrubber.finish(&mut out);
    (flat(&out), scrubber.hits().all())
}

#[test]
fn secret_within_another_one_does_not_hide_it() {
    let set = set_of(&[b"login:passw0rd-2024:end", b"passw0rd-2024"]);
    for size in 1..30 {
        let (out, hits) = run_with(&set, b"<login:passw0rd-2024:end> <passw0rd-2024> <login:passw0rd-2024>", size);
        let expected = "<***********************> <*************> <login:*************>";
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), hits), (expected, 3), "{size}");
    }
}

#[test]
fn secrets_that_repeat_themselves_are_found_in_text_that_does_too() {
    let set = set_of(&[b"abababababab", b"aaaaaaaaaaab"]);
    for size in [1, 2, 5, 1000] {
        let text = ["ab".repeat(20), "c".to_owned(), "a".repeat(40), "b".to_owned()].concat();
        let (out, hits) = run_with(&set, text.as_bytes(), size);
        let expected = ["*".repeat(40), "c".to_owned(), "a".repeat(29), "*".repeat(12)].concat();
        assert_eq!(String::from_utf8_lossy(&out), expected, "{size}");
        assert_eq!(hits, 2, "matches that overlap are one");
    }
}

#[test]
fn secret_of_other_than_ascii_is_found_in_utf8_and_in_escapes() {
    let set = set_of(&["p\u{e4}ss \u{1f511} w\u{f6}rd".as_bytes()]);
    let texts = [
        "p\u{e4}ss \u{1f511} w\u{f6}rd".to_owned(),
        "p\\u00e4ss \\ud83d\\udd11 w\\u00F6rd".to_owned(),
        "p%C3%A4ss%20%f0%9f%94%91%20w%c3%b6rd".to_owned(),
        "p%C3%A4ss+%f0%9f%94%91+w%c3%b6rd".to_owned(),
        "p&#228;ss &#x1F511; w&#246;rd".to_owned(),
    ];
    for text in texts {
        for size in 1..text.len() {
            let (out, hits) = run_with(&set, text.as_bytes(), size);
            assert_eq!((out, hits), (vec![MASK; text.len()], 1), "{text}, {size}");
        }
    }
}

#[test]
fn every_ascii_character_that_html_names_is_read() {
    let secret = b"key!\"#$%&'()*+,./:;<=>?@[\\]^_`{|}~";
    let text = "key&excl;&quot;&num;&dollar;&percnt;&amp;&apos;&lpar;&rpar;&ast;&plus;&comma;&period;&sol;&colon;&semi;\
                &lt;&equals;&gt;&quest;&commat;&lsqb;&bsol;&rsqb;&Hat;&lowbar;&grave;&lcub;&verbar;&rcub;~";
    let other = "key&excl;&QUOT;&num;&dollar;&percnt;&AMP;&#39;&lpar;&rpar;&midast;&plus;&comma;&period;&sol;&colon;\
                 &semi;&LT;&equals;&GT;&quest;&commat;&lbrack;&bsol;&rbrack;&Hat;&UnderBar;&DiacriticalGrave;&lbrace;\
                 &VerticalLine;&rbrace;~";
    for text in [text, other] {
        assert_eq!(run_with(&set_of(&[secret]), text.as_bytes(), 7), (vec![MASK; text.len()], 1));
    }
}

/// A source of numbers that are the same in every run (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn text(&mut self, of: &[u8], len: usize) -> Vec<u8> {
        (0..len).map(|_| of[self.below(of.len())]).collect()
    }
}

/// Escapes some of the characters, in one way.
fn escaped(numbers: &mut Numbers, secret: &[u8]) -> Vec<u8> {
    let way = numbers.below(4);
    let often = numbers.below(4);
    let mut out = Vec::new();
    for byte in secret {
        let must = match way {
            1 => *byte == b'%',
            2 => matches!(byte, b'"' | b'\\'),
            3 => *byte == b'&',
            _ => false,
        };
        let escape = must || numbers.below(4) < often;
        let text = match way {
            1 if escape => format!("%{byte:02x}"),
            2 if escape && matches!(byte, b'"' | b'\\' | b'/') => format!("\\{}", char::from(*byte)),
            2 if escape => format!("\\u{byte:04X}"),
            3 if escape => format!("&#{byte};"),
            _ => char::from(*byte).to_string(),
        };
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[test]
fn secret_of_any_kind_is_masked_in_text_of_any_kind_at_any_cut_and_nothing_else_is() {
    let mut numbers = Numbers(0x5eed_5eed_5eed);
    // Few characters, so that texts are full of what begins like a secret and of what looks like escapes.
    let alphabets: [&[u8]; 4] = [b"ab", b"a%4\\u0&#;1", b"ab\\\"/", b"sk-live&%"];
    for round in 0..1500 {
        let alphabet = alphabets[numbers.below(4)];
        let len = 8 + numbers.below(20);
        let mut secret = numbers.text(alphabet, len);
        // What makes it one of its kind: text of the same alphabet doesn't hold it.
        secret.extend_from_slice(b"Z9");
        let length = numbers.below(60);
        let before = numbers.text(alphabet, length);
        let length = numbers.below(60);
        let after = numbers.text(alphabet, length);
        let shown = escaped(&mut numbers, &secret);
        // A space ends what the text before may have begun.
        let text = [&before[..], b" ", &shown, b" ", &after].concat();
        let size = 1 + numbers.below(40);
        let (out, hits) = run_with(&set_of(&[&secret]), &text, size);
        let what = format!(
            "{round}: {:?} in {:?} by {size}",
            String::from_utf8_lossy(&secret),
            String::from_utf8_lossy(&text)
        );
        let expected = [&before[..], b" ", &vec![MASK; shown.len()], b" ", &after].concat();
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "{what}");
        assert_eq!(hits, 1, "{what}");
    }
}

#[test]
fn what_begins_like_a_long_secret_over_and_over_costs_no_more_than_other_text() {
    // 64 KiB of "sk-psk-p...": with work for each place that grew with the secret's length, this would
    // not end within a day.
    let mut secret = b"sk-p".repeat(16 << 10);
    secret.pop();
    secret.push(b'!');
    let set = set_of(&[&secret]);
    let text = b"sk-p".repeat(64 << 10);
    for (size, piece) in [(100_000, 1), (text.len(), 16 << 10)] {
        assert_eq!(run_with(&set, &text[..size], piece), (text[..size].to_vec(), 0));
    }
    let (out, hits) = run_with(&set, &[&text[..3000], &secret, b"!"].concat(), 5000);
    assert_eq!((out.len(), hits), (3000 + secret.len() + 1, 1));
    assert!(out[3000..].starts_with(&vec![MASK; secret.len()]));
}

#[test]
fn patterns_that_come_while_text_is_held_back_are_looked_for_in_it() {
    let mut scrubber = Scrubber::new(set());
    let mut out = VecDeque::new();
    scrubber.push(Bytes::from_static(b"a sk-live-5"), &mut out);
    scrubber.look_for(set_of(&[b"sk-live-5-other"]));
    scrubber.push(Bytes::from_static(b"-other b"), &mut out);
    scrubber.finish(&mut out);
    assert_eq!(flat(&out), b"a *************** b");
}

#[test]
fn more_fronts_than_fit_a_packed_search_are_found_as_well() {
    let secrets: Vec<Vec<u8>> = (0..300).map(|n| format!("{n:03}-secret-{n}").into_bytes()).collect();
    let all: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
    let set = set_of(&all);
    for secret in [&secrets[0], &secrets[150], &secrets[299]] {
        let text = [b"in ", &secret[..], b" it"].concat();
        assert_eq!(run_with(&set, &text, 4).0, [b"in ", &vec![MASK; secret.len()][..], b" it"].concat());
    }
}
