//! A polynomial over the bytes of a text, modulo the prime 2^61 - 1: that of a piece comes from the sums
//! before and behind it (Karp and Rabin, "Efficient randomized pattern-matching algorithms", 1987).

const PRIME: u64 = (1 << 61) - 1;

/// The polynomial of a text up to some byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum(u64);

/// Where the polynomial is evaluated: random, so that nobody can find texts that collide.
pub(super) struct Base(u64);

impl Base {
    /// A base from random bytes.
    pub fn new(seed: &[u8; 32]) -> Self {
        let (front, _) = seed.split_at(8);
        let number = front.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        // Neither zero nor small.
        Self((number >> 3) % (PRIME - 512) + 256)
    }

    /// The sum one byte further on.
    pub fn step(&self, sum: Sum, byte: u8) -> Sum {
        Sum(reduce(u128::from(sum.0) * u128::from(self.0) + u128::from(byte)))
    }

    /// The base to the power of a length.
    pub fn power(&self, len: usize) -> Sum {
        Sum((0..len).fold(1, |power, _| reduce(u128::from(power) * u128::from(self.0))))
    }

    /// The print of the piece between two sums, whose length has this power.
    pub fn print(&self, before: Sum, behind: Sum, power: Sum) -> u16 {
        let shifted = reduce(u128::from(before.0) * u128::from(power.0));
        let own = if behind.0 >= shifted { behind.0 - shifted } else { behind.0 + PRIME - shifted };
        (own & 0xffff) as u16
    }

    /// The print of a whole text.
    pub fn print_of(&self, text: &[u8]) -> u16 {
        let sum = text.iter().fold(Sum::default(), |sum, byte| self.step(sum, *byte));
        self.print(Sum::default(), sum, Sum(1))
    }
}

fn reduce(number: u128) -> u64 {
    let folded = (number & u128::from(PRIME)) as u64 + (number >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_of_a_piece_is_that_of_the_same_text_alone() {
        let base = Base::new(&[0xab; 32]);
        let text: Vec<u8> = (0..2000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut sums = vec![Sum::default()];
        for byte in &text {
            sums.push(base.step(sums[sums.len() - 1], *byte));
        }
        for (from, to) in [(0, 1), (0, 2000), (5, 13), (100, 1999)] {
            let print = base.print(sums[from], sums[to], base.power(to - from));
            assert_eq!(print, base.print_of(&text[from..to]), "{from}..{to}");
        }
        assert_ne!(base.print_of(b"sk-live-a"), base.print_of(b"sk-live-b"));
    }
}
