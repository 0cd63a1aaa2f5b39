//! Reading a file from a stream: one pass that fills memory and hashes at once.
//!
//! What was hashed is what is used; nothing is read twice, so a file that changes meanwhile cannot slip
//! other bytes under the digest. It reports progress in bytes and refuses a foreign file at its first ones.

use super::cursor::Cursor;
use super::{Gguf, GgufError, header};
use orchestrion_world::units::Sha256;
use sha2::Digest as _;
use std::io::{ErrorKind, Read};

/// Small enough to stay in the cache between reading and hashing.
const CHUNK: usize = 1 << 20;

impl Gguf {
    /// Reads exactly `len` bytes from `r` and parses them; `progress` hears bytes done and `len`, at the
    /// start, about each megabyte, and at the end.
    ///
    /// The length is the caller's word (a file's metadata), and memory is reserved for it: a length above
    /// what the machine has is [`GgufError::Memory`], a shorter stream [`GgufError::Truncated`], a longer
    /// one [`GgufError::Longer`].
    pub fn read(mut r: impl Read, len: u64, mut progress: impl FnMut(u64, u64)) -> Result<Gguf, GgufError> {
        let memory = || GgufError::Memory { expected: len };
        let total = usize::try_from(len).map_err(|_| memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(total).map_err(|_| memory())?;
        let mut hasher = sha2::Sha256::new();
        progress(0, len);
        while bytes.len() < total {
            let before = bytes.len();
            let want = CHUNK.min(total - before);
            let failed =
                |found: ErrorKind, offset: usize| GgufError::Read { offset: offset as u64, expected: len, found };
            match (&mut r).take(want as u64).read_to_end(&mut bytes) {
                Ok(0) => {
                    let found = 0;
                    let expected = (total - before) as u64;
                    return Err(GgufError::Truncated { field: "file", offset: before as u64, expected, found });
                }
                Ok(_) => {}
                Err(e) => return Err(failed(e.kind(), bytes.len())),
            }
            if before == 0 {
                header::magic_and_version(&mut Cursor::new(&bytes))?;
            }
            hasher.update(&bytes[before..]);
            progress(bytes.len() as u64, len);
        }
        let mut beyond = [0];
        match r.read(&mut beyond) {
            Ok(0) => {}
            Ok(_) => return Err(GgufError::Longer { offset: len, expected: len }),
            Err(e) => return Err(GgufError::Read { offset: len, expected: len, found: e.kind() }),
        }
        Gguf::with_digest(bytes, Sha256(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenSpec, generate};

    #[test]
    fn a_stream_and_a_buffer_are_the_same_file() {
        let bytes = generate(&GenSpec::default()).unwrap();
        let len = bytes.len() as u64;
        let mut heard = Vec::new();
        let streamed = Gguf::read(bytes.as_slice(), len, |done, total| heard.push((done, total))).unwrap();
        let parsed = Gguf::parse(bytes).unwrap();
        assert_eq!(streamed.digest(), parsed.digest());
        assert_eq!(streamed.tensors().count(), parsed.tensors().count());
        assert_eq!(heard.first(), Some(&(0, len)));
        assert_eq!(heard.last(), Some(&(len, len)));
    }

    #[test]
    fn a_wrong_length_is_said() {
        let bytes = generate(&GenSpec::default()).unwrap();
        let len = bytes.len() as u64;
        let short = Gguf::read(bytes.as_slice(), len + 5, |_, _| ()).unwrap_err();
        assert_eq!(short, GgufError::Truncated { field: "file", offset: len, expected: 5, found: 0 });
        let long = Gguf::read(bytes.as_slice(), len - 5, |_, _| ()).unwrap_err();
        assert_eq!(long, GgufError::Longer { offset: len - 5, expected: len - 5 });
        let huge = Gguf::read(bytes.as_slice(), u64::MAX, |_, _| ()).unwrap_err();
        assert_eq!(huge, GgufError::Memory { expected: u64::MAX });
    }

    #[test]
    fn a_foreign_file_is_refused_after_its_first_chunk() {
        let mut reads = 0;
        let foreign = vec![0x7f; 3 * CHUNK];
        let err = Gguf::read(foreign.as_slice(), foreign.len() as u64, |_, _| reads += 1).unwrap_err();
        assert!(matches!(err, GgufError::Magic { found: 0x7f7f7f7f, .. }));
        assert_eq!(reads, 1, "only the start was reported");
    }
}
