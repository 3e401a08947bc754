//! How tokenizers that work on bytes write them as letters.

use std::collections::HashMap;

/// GPT-2's alphabet: printable bytes stand for themselves, the others for letters from U+0100 on.
pub fn byte_letters() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100..;
    (0..=255u8)
        .map(|b| (if printable(b) { b as char } else { char::from_u32(next.next().unwrap()).unwrap() }, b))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let letters = byte_letters();
        assert_eq!(letters.len(), 256);
        assert_eq!(letters[&'Ġ'], b' ');
        assert_eq!(letters[&'Ċ'], b'\n');
        assert_eq!(letters[&'A'], b'A');
    }
}
