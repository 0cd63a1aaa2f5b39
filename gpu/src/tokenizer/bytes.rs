//! GPT-2's printable alphabet: each byte as one character, so that any bytes can stand in a text file.
//!
//! Printable Latin-1 stands for itself; the other 68 bytes take the characters from U+0100 on, in order
//! (a space is `Ġ`, a newline `Ċ`). Vocabularies of byte-level BPE are written in it.

/// Bytes that stand for themselves.
const fn is_plain(byte: u32) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn alphabet() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    let mut next = 0x100;
    while byte < 256 {
        if is_plain(byte) {
            table[byte as usize] = byte;
        } else {
            table[byte as usize] = next;
            next += 1;
        }
        byte += 1;
    }
    table
}

const ALPHABET: [u32; 256] = alphabet();

/// The character that stands for `byte`.
pub(crate) fn printable(byte: u8) -> char {
    char::from_u32(ALPHABET[byte as usize]).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte a character stands for, if it is of the alphabet.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    if is_plain(code) {
        return u8::try_from(code).ok();
    }
    ALPHABET.iter().position(|known| *known == code).and_then(|byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        for byte in 0..=255 {
            assert_eq!(byte_of(printable(byte)), Some(byte));
        }
        assert_eq!((printable(b' '), printable(b'\n'), printable(0xad)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(byte_of('字'), None);
        assert_eq!(byte_of('\u{144}'), None);
    }
}
