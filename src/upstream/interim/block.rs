//! The status in a block of fields (HPACK, RFC 7541), told without decoding it.
//!
//! Fields are walked, and their texts skipped but for what tells `:status` and its first digit. Of the
//! dynamic table nothing is kept but two bits for each entry: whether it is a status, and whether that is
//! interim. Evictions need no account: an index counts from the newest entry (section 2.3.3), so they
//! only make indices invalid, and h2 ends a connection that has such a one. It ends one with any other
//! error of compression too; here nothing of one is found but an end.

/// What a `:status` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// 1xx.
    Interim,
    /// Any other.
    Final,
}

/// A connection's blocks, one after the other.
#[derive(Default)]
pub(super) struct Block {
    /// Which entries of the dynamic table are statuses, the newest in the lowest bit. An entry counts 32
    /// bytes and more (section 4.1), so the 4,096 bytes that an upstream may use without our word have 128.
    statuses: u128,
    /// Which of them are interim.
    interim: u128,
    at: At,
    field: Field,
    found: Option<Status>,
}

/// The literal field that is walked.
#[derive(Default)]
struct Field {
    /// It becomes an entry of the dynamic table.
    kept: bool,
    /// Its name is `:status`.
    named: bool,
    /// What is left of that name, as long as its own literal name is the same.
    fits: Option<&'static [u8]>,
    interim: bool,
}

#[derive(Clone, Copy, Default)]
enum At {
    /// At the first byte of a field.
    #[default]
    Field,
    /// In an integer that doesn't fit its first byte (section 5.1).
    Number {
        of: Number,
        value: u32,
        shift: u32,
    },
    NameLength,
    Name {
        left: u32,
    },
    ValueLength,
    /// At the first byte of a value that has one.
    Value {
        huffman: bool,
        left: u32,
    },
    /// In a value.
    Rest {
        left: u32,
    },
}

/// What an integer is.
#[derive(Clone, Copy)]
enum Number {
    Entry,
    Name { kept: bool },
    TableSize,
    NameLength { huffman: bool },
    ValueLength { huffman: bool },
}

impl Block {
    /// The next bytes of a block.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.at {
                At::Field => self.field(byte),
                At::Number { of, value, shift } => {
                    // h2 takes none of more bytes than have room here.
                    let value = value.saturating_add(u32::from(byte & 0x7f) << shift.min(24));
                    match byte & 0x80 {
                        0 => self.number(of, value),
                        _ => self.at = At::Number { of, value, shift: shift.saturating_add(7) },
                    }
                }
                At::NameLength => self.begin(Number::NameLength { huffman: byte & 0x80 != 0 }, byte, 7),
                At::ValueLength => self.begin(Number::ValueLength { huffman: byte & 0x80 != 0 }, byte, 7),
                At::Value { huffman, left } => {
                    // A Huffman code is no other's beginning (appendix B): that of 1 is 00001.
                    self.field.interim = if huffman { byte >> 3 == 1 } else { byte == b'1' };
                    self.at = At::Rest { left };
                    continue;
                }
                At::Name { left } => {
                    let (name, rest, left) = cut(bytes, left);
                    self.field.fits = self.field.fits.and_then(|fits| fits.strip_prefix(name));
                    self.at = At::Name { left };
                    if left == 0 {
                        self.field.named = self.field.fits.is_some_and(<[u8]>::is_empty);
                        self.at = At::ValueLength;
                    }
                    bytes = rest;
                    continue;
                }
                At::Rest { left } => {
                    let (_, rest, left) = cut(bytes, left);
                    self.at = At::Rest { left };
                    if left == 0 {
                        self.field_ends();
                    }
                    bytes = rest;
                    continue;
                }
            }
            bytes = rest;
        }
    }

    /// The block is over: the status that it has, if it has one.
    pub fn end(&mut self) -> Option<Status> {
        self.at = At::Field;
        self.found.take()
    }

    /// The first byte of a field tells its form (section 6).
    fn field(&mut self, byte: u8) {
        match byte {
            0x80.. => self.begin(Number::Entry, byte, 7),
            0x40.. => self.begin(Number::Name { kept: true }, byte, 6),
            0x20.. => self.begin(Number::TableSize, byte, 5),
            _ => self.begin(Number::Name { kept: false }, byte, 4),
        }
    }

    /// An integer begins in the lowest bits of a byte.
    fn begin(&mut self, of: Number, byte: u8, bits: u32) {
        let most = (1u32 << bits) - 1;
        match u32::from(byte) & most {
            value if value == most => self.at = At::Number { of, value, shift: 0 },
            value => self.number(of, value),
        }
    }

    fn number(&mut self, of: Number, value: u32) {
        self.at = match of {
            Number::Entry => {
                self.found = self.found.or(self.entry(value));
                At::Field
            }
            Number::TableSize => At::Field,
            Number::Name { kept } => {
                self.field = Field { kept, named: self.entry(value).is_some(), fits: None, interim: false };
                if value == 0 { At::NameLength } else { At::ValueLength }
            }
            Number::NameLength { huffman } => {
                self.field.fits = Some(if huffman { HUFFMAN_NAME } else { NAME });
                if value == 0 { At::ValueLength } else { At::Name { left: value } }
            }
            Number::ValueLength { .. } if value == 0 => return self.field_ends(),
            Number::ValueLength { huffman } => At::Value { huffman, left: value },
        };
    }

    /// The status that an entry of the static table (appendix A) or of the dynamic one is.
    fn entry(&self, index: u32) -> Option<Status> {
        if (8..=14).contains(&index) {
            return Some(Status::Final);
        }
        let bit = index.checked_sub(FIRST_DYNAMIC).and_then(|at| 1u128.checked_shl(at)).unwrap_or(0);
        let status = if self.interim & bit == 0 { Status::Final } else { Status::Interim };
        (self.statuses & bit != 0).then_some(status)
    }

    fn field_ends(&mut self) {
        let Field { kept, named, interim, .. } = self.field;
        let interim = named && interim;
        if kept {
            self.statuses = self.statuses << 1 | u128::from(named);
            self.interim = self.interim << 1 | u128::from(interim);
        }
        if named {
            self.found = self.found.or(Some(if interim { Status::Interim } else { Status::Final }));
        }
        self.at = At::Field;
    }
}

/// The bytes up to what is left of a text, those behind them, and what is left then.
fn cut(bytes: &[u8], left: u32) -> (&[u8], &[u8], u32) {
    let (now, rest) = bytes.split_at(bytes.len().min(left as usize));
    (now, rest, left.saturating_sub(u32::try_from(now.len()).unwrap_or(u32::MAX)))
}

const NAME: &[u8] = b":status";
/// The same in the Huffman code.
const HUFFMAN_NAME: &[u8] = &[0xb8, 0x84, 0x8d, 0x36, 0xa3];
/// The index of the dynamic table's newest entry.
const FIRST_DYNAMIC: u32 = 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_told_in_each_form_at_every_cut() {
        let value = |of: &[u8]| [&[u8::try_from(of.len()).expect("short")][..], of].concat();
        let plain = |first: &[u8], status: &[u8]| [first, &value(status)].concat();
        let (interim, done) = (Some(Status::Interim), Some(Status::Final));
        // 103 and 302 in the Huffman code (RFC 7541 section C.6.1 has the latter).
        let (huffman_103, huffman_302) = ([0x83, 0x08, 0x0c, 0xff], [0x82, 0x64, 0x02]);
        let name = value(NAME);
        let coded = [&[0x85][..], HUFFMAN_NAME].concat();
        let long = [&[0x00, 0x7f, 0xb9, 0x01][..], &[b'x'; 127 + 0x39 + 0x80], b"\x011"].concat();
        for (block, status) in [
            (vec![], None),
            (vec![0x88], done),
            (vec![0x8e], done),
            (vec![0x8f], None),
            (plain(&[0x08], b"103"), interim),
            (plain(&[0x18], b"100"), interim),
            (plain(&[0x48], b"102"), interim),
            (plain(&[0x4e], b"199"), interim),
            // Table sizes, in one byte and in three.
            (plain(&[0x20, 0x3f, 0xe1, 0x1f, 0x08], b"103"), interim),
            (plain(&[0x08], b"203"), done),
            (plain(&[0x08], b""), done),
            ([&[0x08][..], &huffman_103].concat(), interim),
            ([&[0x48][..], &huffman_302].concat(), done),
            (plain(&[&[0x00][..], &name].concat(), b"103"), interim),
            (plain(&[&[0x10][..], &coded].concat(), b"103"), interim),
            (plain(&[&[0x40][..], &coded].concat(), b"404"), done),
            (plain(&[&[0x00][..], &value(b":statuz")].concat(), b"103"), None),
            (plain(&[&[0x00][..], &value(b"")].concat(), b"103"), None),
            // Another name by index, whose index has more bytes than one.
            (plain(&[0x0f, 0x12], b"103"), None),
            ([&long[..], &plain(&[0x08], b"103")].concat(), interim),
            ([&plain(&[0x08], b"103")[..], &[0x88]].concat(), interim),
        ] {
            for size in 1..=block.len().max(1) {
                let mut walked = Block::default();
                for piece in block.chunks(size) {
                    walked.read(piece);
                }
                assert_eq!(walked.end(), status, "{block:02x?} in {size}");
                walked.read(&[0x88]);
                assert_eq!(walked.end(), done);
            }
        }
    }

    #[test]
    fn entries_of_the_dynamic_table_are_known_for_as_long_as_there_are() {
        let mut block = Block::default();
        let mut says = |bytes: &[u8]| {
            block.read(bytes);
            block.end()
        };
        assert_eq!(says(&[0xbe]), None, "an empty table");
        assert_eq!(says(b"\x48\x03103"), Some(Status::Interim));
        assert_eq!(says(b"\x48\x03404"), Some(Status::Final));
        assert_eq!((says(&[0xbe]), says(&[0xbf])), (Some(Status::Final), Some(Status::Interim)));
        // Its name alone, by the dynamic index.
        assert_eq!((says(b"\x0f\x30\x03102"), says(b"\x0f\x2f\x03502")), (Some(Status::Interim), Some(Status::Final)));
        // What isn't kept moves nothing; what is, does.
        assert_eq!(says(b"\x00\x01x\x011"), None);
        assert_eq!(says(&[0xbf]), Some(Status::Interim));
        for kept in 1..=130u32 {
            assert_eq!(says(b"\x40\x01x\x011"), None);
            let index = |at: u32| match 62 + at {
                index @ ..127 => vec![0x80 | u8::try_from(index).expect("fits")],
                index => {
                    let (low, high) = ((index - 127) & 0x7f, (index - 127) >> 7);
                    vec![0xff, u8::try_from(low | 0x80).expect("fits"), u8::try_from(high).expect("fits")]
                }
            };
            let interim = (kept + 1 < 128).then_some(Status::Interim);
            assert_eq!(says(&index(kept + 1)), interim, "{kept}");
            assert_eq!(says(&index(kept + 2)), None, "{kept}");
        }
    }

    #[test]
    fn block_that_ends_anywhere_leaves_the_next_as_it_is() {
        let block = b"\x40\x07:status\x03103\x7f\x80\x01\x7f\x80\x80\x80\x80\x80\x80\xff";
        for len in 0..=block.len() {
            let mut walked = Block::default();
            walked.read(&block[..len]);
            walked.end();
            walked.read(b"\x08\x03100");
            assert_eq!(walked.end(), Some(Status::Interim), "{len}");
        }
    }
}
