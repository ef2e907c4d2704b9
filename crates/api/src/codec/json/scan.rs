//! Looking for the few bytes of a string that mean something, eight bytes at a time.

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// The high bit of each byte that is zero. Above the first such byte there may be wrong ones.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// How many bytes of a string stand before the first that ends it, escapes something, or may not be there: a quote, a
/// backslash, a control character.
#[inline]
pub fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = control | zeros(word ^ (ONES * 0x22)) | zeros(word ^ (ONES * 0x5c));
        if found != 0 {
            return i * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let stops = |b: &u8| matches!(b, 0..0x20 | b'"' | b'\\');
    words.len() * 8 + rest.iter().position(stops).unwrap_or(rest.len())
}

/// How many bytes of a text stand before the first that is written otherwise, or may be the first of a character that is
/// (U+2028, U+2029).
#[inline]
pub(super) fn verbatim(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        // A quote and an ampersand differ in one bit, as the two brackets do.
        let found = control
            | zeros((word | (ONES * 0x04)) ^ (ONES * 0x26))
            | zeros((word | (ONES * 0x02)) ^ (ONES * 0x3e))
            | zeros(word ^ (ONES * 0x5c))
            | zeros(word ^ (ONES * 0xe2));
        if found != 0 {
            return i * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let stops = |b: &u8| matches!(b, 0..0x20 | b'"' | b'&' | b'<' | b'>' | b'\\' | 0xe2);
    words.len() * 8 + rest.iter().position(stops).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_and_bytes_agree(mut bytes in prop::collection::vec(any::<u8>(), 0..40), rare in any::<bool>()) {
            if rare {
                // Long runs without a hit.
                bytes.iter_mut().for_each(|b| *b = if *b < 250 { b'a' + (*b & 7) } else { *b });
            }
            let first = |stops: fn(u8) -> bool| bytes.iter().position(|b| stops(*b)).unwrap_or(bytes.len());
            prop_assert_eq!(plain(&bytes), first(|b| b < 0x20 || b == b'"' || b == b'\\'));
            prop_assert_eq!(verbatim(&bytes), first(|b| b < 0x20 || br#""&<>\"#.contains(&b) || b == 0xe2));
        }
    }

    #[test]
    fn each_byte_counts_at_each_place() {
        for place in 0..20 {
            for byte in 0..=255u8 {
                let mut bytes = [b'x'; 20];
                bytes[place] = byte;
                let at = |stops: bool| if stops { place } else { 20 };
                assert_eq!(plain(&bytes), at(byte < 0x20 || byte == b'"' || byte == b'\\'), "{byte:#x} at {place}");
                let escaped = byte < 0x20 || br#""&<>\"#.contains(&byte) || byte == 0xe2;
                assert_eq!(verbatim(&bytes), at(escaped), "{byte:#x} at {place}");
            }
        }
    }
}
