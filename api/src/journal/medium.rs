//! Appending all or nothing: a record that does not fit is taken back.
//!
//! The one seam under the writer, so that a disk can fill up or break in a test. Decides nothing: what a
//! failed write means is the pulse's.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

/// What bytes are appended to: a file, or in tests one that fills up.
pub(crate) trait Medium: Send + std::fmt::Debug {
    /// As `Write::write`, at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Drops everything from `len` on.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Forces what was appended to disk.
    fn force(&self) -> io::Result<()>;
}

impl Medium for Arc<File> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn force(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A write that did not get through.
pub(crate) struct PutFailed {
    pub(crate) source: io::Error,
    /// The part that got through is still there.
    pub(crate) ragged: bool,
}

/// Writes all of `frame` after `at` bytes, or takes back what it wrote.
pub(crate) fn put(medium: &mut dyn Medium, frame: &[u8], at: u64) -> Result<(), PutFailed> {
    let mut written = 0;
    while written < frame.len() {
        let source = match medium.append(&frame[written..]) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(n) => {
                written += n;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let ragged = written > 0 && medium.cut(at).is_err();
        return Err(PutFailed { source, ragged });
    }
    Ok(())
}
