//! Who may do what: the tokens a server knows, the scopes each has, and the judgement over a request.
//!
//! Only SHA-256 digests of tokens are held, and compared in constant time; logs name a caller by the first
//! six hex digits of that digest. It reads no file and no environment: the binary does, and hands the text
//! to [`Keyring::parse`].

mod keyring;
mod rate;

pub use keyring::{Keyring, KeyringError};

use crate::problem::{ErrorCode, Problem};
use orchestrion_world::id::TenantId;
use std::fmt;
use std::time::Instant;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Ask for answers, and follow or cancel them.
    Infer,
    /// Run the server.
    Operate,
    /// Bring a worker.
    Register,
    /// Look, change nothing.
    Read,
}

impl Scope {
    pub(crate) const ALL: &'static [Scope] = &[Scope::Infer, Scope::Operate, Scope::Register, Scope::Read];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Scope::Infer => "infer",
            Scope::Operate => "operate",
            Scope::Register => "register",
            Scope::Read => "read",
        }
    }
}

/// What a route asks of its caller, once the server has tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: it holds no data.
    Open,
    /// As `auth.health_open` says.
    Health,
    /// As `auth.metrics_open` says.
    Metrics,
    /// A token that may ask for answers, and one request of its rate.
    Work,
    /// A token with one of these.
    Scopes(&'static [Scope]),
}

/// For what is closed by configuration only.
const OPERATORS: &[Scope] = &[Scope::Read, Scope::Operate];

/// The tokens and how strictly they are asked for.
#[derive(Clone, Debug)]
pub struct Auth {
    pub keyring: Keyring,
    /// Callers on this machine need no token.
    pub optional: bool,
    pub metrics_open: bool,
    pub health_open: bool,
}

impl Default for Auth {
    /// No tokens: open, which the binary allows on loopback alone.
    fn default() -> Self {
        Auth { keyring: Keyring::default(), optional: false, metrics_open: true, health_open: true }
    }
}

/// Whom a request comes from, as logs name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody was asked.
    Unasked,
    Localhost,
    /// The first three bytes of the token's digest.
    Token([u8; 3]),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unasked => f.write_str("-"),
            Identity::Localhost => f.write_str("localhost"),
            Identity::Token([a, b, c]) => write!(f, "token:{a:02x}{b:02x}{c:02x}"),
        }
    }
}

/// Who may go on: for the logs, and whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) tenant: TenantId,
}

/// What a request's head shows of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown<'a> {
    Nothing,
    /// Something that is no bearer token.
    Unreadable,
    Token(&'a str),
}

impl Auth {
    /// Whether the caller may go on. `local` is one on this machine, by address and by the name it used.
    pub(crate) fn judge(&self, access: Access, shown: Shown<'_>, local: bool, now: Instant) -> Result<Caller, Problem> {
        let nobody = |identity| Caller { identity, tenant: TenantId::DEFAULT };
        if self.keyring.is_empty() {
            return Ok(nobody(Identity::Localhost));
        }
        let wanted = match access {
            Access::Open => return Ok(nobody(Identity::Unasked)),
            Access::Health if self.health_open => return Ok(nobody(Identity::Unasked)),
            Access::Metrics if self.metrics_open => return Ok(nobody(Identity::Unasked)),
            Access::Health | Access::Metrics => OPERATORS,
            Access::Work => &[Scope::Infer],
            Access::Scopes(wanted) => wanted,
        };
        let key = match shown {
            Shown::Nothing if self.optional && local => return Ok(nobody(Identity::Localhost)),
            Shown::Nothing => {
                let message = "this server asks for a token (40101); send `Authorization: Bearer` and yours";
                return Err(Problem::new(ErrorCode::MissingToken, message));
            }
            Shown::Unreadable => None,
            Shown::Token(token) => self.keyring.find(token),
        };
        let Some(key) = key else {
            let message = "this server does not know the token that was sent (40102); check it against `auth`";
            return Err(Problem::new(ErrorCode::BadToken, message));
        };
        if wanted.iter().any(|scope| key.scopes.contains(scope)) {
            if access == Access::Work {
                key.spend(now).map_err(Problem::rate_limited)?;
            }
            return Ok(Caller { identity: key.identity(), tenant: key.tenant });
        }
        let wanted: Vec<&str> = wanted.iter().map(|scope| scope.name()).collect();
        let message = format!("the token has not the scope this path asks for: {}", wanted.join(" or "));
        Err(Problem::new(ErrorCode::Forbidden, message))
    }
}
