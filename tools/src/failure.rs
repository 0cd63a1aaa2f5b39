//! How a command ends when it cannot do what it was asked: one sentence, its causes, an exit code of
//! sysexits.h where one fits.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Exit codes beyond 0 (done), 1 (failed) and 2 (usage, clap's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed = 1,
    /// The input is damaged, or a replay differs.
    BadData = 65,
    /// A server or a source cannot be reached.
    Unavailable = 69,
    /// A broken invariant: the journal is saved and shows it again.
    Broken = 70,
    BadConfig = 78,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { code, error: error.into() }
    }

    /// For `map_err`.
    pub(crate) fn of<E: Into<Box<dyn Error + Send + Sync>>>(code: Code) -> impl Fn(E) -> Failure {
        move |error| Failure::new(code, error)
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Says it on stderr.
    pub(crate) fn tell(self) -> ExitCode {
        // A reader that closed our stdout, as `| head` does, is no failure worth a word.
        if !self.is_broken_pipe() {
            eprintln!("error: {self}");
        }
        ExitCode::from(self.code() as u8)
    }

    fn is_broken_pipe(&self) -> bool {
        let io = self.error.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        let mut said = self.error.to_string();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their source's words.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(Code::Failed, error)
    }
}
