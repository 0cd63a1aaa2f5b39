//! Reading a file from a stream: one pass that fills memory, and a thread that hashes what is there.
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
        let mut bytes = zeros(len)?;
        progress(0, len);
        let digest = std::thread::scope(|scope| {
            let (read, to_hash) = std::sync::mpsc::channel::<&[u8]>();
            let hasher = scope.spawn(move || {
                let mut hasher = sha2::Sha256::new();
                to_hash.iter().for_each(|chunk| hasher.update(chunk));
                hasher.finalize()
            });
            let mut done = 0;
            for chunk in bytes.chunks_mut(CHUNK) {
                fill(&mut r, chunk, done, len)?;
                if done == 0 {
                    header::magic_and_version(&mut Cursor::new(chunk))?;
                }
                done += chunk.len() as u64;
                // It fails only where the hasher has ended, which says so itself below.
                let _ = read.send(chunk);
                progress(done, len);
            }
            drop(read);
            hasher.join().map_err(|panic| std::panic::resume_unwind(panic))
        })?;
        let mut beyond = [0];
        match r.read(&mut beyond) {
            Ok(0) => {}
            Ok(_) => return Err(GgufError::Longer { offset: len, expected: len }),
            Err(e) => return Err(GgufError::Read { offset: len, expected: len, found: e.kind() }),
        }
        Gguf::with_digest(bytes, Sha256(digest.into()))
    }
}

/// Memory for so many bytes, which the system fills in when it is touched. Asked for twice, since only the first way of
/// asking can be refused and only the second touches nothing.
fn zeros(len: u64) -> Result<Vec<u8>, GgufError> {
    let memory = || GgufError::Memory { expected: len };
    let total = usize::try_from(len).map_err(|_| memory())?;
    Vec::<u8>::new().try_reserve_exact(total).map_err(|_| memory())?;
    Ok(vec![0; total])
}

/// Reads `chunk`, which begins at `offset` of a file of `len` bytes, to its end.
fn fill(r: &mut impl Read, chunk: &mut [u8], offset: u64, len: u64) -> Result<(), GgufError> {
    let mut filled = 0;
    while filled < chunk.len() {
        let offset = offset + filled as u64;
        match r.read(&mut chunk[filled..]) {
            Ok(0) => return Err(GgufError::Truncated { field: "file", offset, expected: len - offset, found: 0 }),
            Ok(read) => filled += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(GgufError::Read { offset, expected: len, found: e.kind() }),
        }
    }
    Ok(())
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
