//! The tokens of a server, as digests: read from lines of text, found in constant time.
//!
//! A line is `name scopes token`, where scopes are joined by commas or `all`, and may end with
//! `rate=10/s` or `rate=30/m` and with `tenant=name`; without, the token's name is its tenant's. A line with
//! nothing but a token has all scopes, no rate and the default tenant. Empty lines and those that begin with `#`
//! are left out. In an environment variable a semicolon may stand for the end of a line. No message quotes a token.

use super::rate::Bucket;
use super::{Identity, Scope};
use orchestrion_world::id::TenantId;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// A shorter one can be guessed.
const LENGTH_LEAST: usize = 16;
/// From here on nobody guesses it, even if it is no even draw.
const LENGTH_GOOD: usize = 32;
/// Each request is compared with all of them.
const KEYS_MOST: usize = 256;

/// One token.
#[derive(Clone)]
pub(crate) struct Key {
    name: String,
    pub(crate) scopes: Vec<Scope>,
    pub(super) tenant: TenantId,
    digest: [u8; 32],
    /// Long enough to be allowed, not to be good.
    weak: bool,
    /// Shared by all clones: it is one token.
    bucket: Option<Arc<Bucket>>,
}

impl Key {
    /// Takes one request of its rate, or says after how many milliseconds there will be one.
    pub(super) fn spend(&self, now: Instant) -> Result<(), u64> {
        self.bucket.as_ref().map_or(Ok(()), |bucket| bucket.take(now))
    }

    pub(crate) fn identity(&self) -> Identity {
        let [a, b, c, ..] = self.digest;
        Identity::Token([a, b, c])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.identity())
    }
}

/// The tokens a server knows.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// Why tokens could not be read. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("line {line} of the tokens has {fields} fields; write `name scopes token`, or a token alone")]
    Form { line: usize, fields: usize },
    #[error(
        "what follows the token on line {line} is no rate and no tenant; write `rate=10/s` or `rate=30/m`, \
         `tenant=name`, both or nothing"
    )]
    More { line: usize },
    #[error(
        "line {line} of the tokens names the scope `{scope}`; expected all, or some of infer, operate, register, read"
    )]
    Scope { line: usize, scope: String },
    #[error(
        "the token on line {line} has {length} characters, and {LENGTH_LEAST} are the least; make one with `openssl rand -hex 32`"
    )]
    Short { line: usize, length: usize },
    #[error("the token on line {line} holds a character that no HTTP header carries; use visible ASCII")]
    Unsendable { line: usize },
    #[error("the token or the name on line {line} stands on an earlier line too; take one of them out")]
    Twice { line: usize },
    #[error("there are more than {KEYS_MOST} tokens; take out those that nobody uses")]
    TooMany,
    #[error("the tokens hold no token at all; add a line, or take the source out to serve without")]
    Empty,
}

impl Keyring {
    /// Reads at least one token.
    pub fn parse(text: &str) -> Result<Keyring, KeyringError> {
        let mut keys: Vec<Key> = Vec::new();
        for (line, content) in (1..).zip(text.split(['\n', ';'])) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let key = key(line, content)?;
            if keys.iter().any(|other| other.digest == key.digest || other.name == key.name) {
                return Err(KeyringError::Twice { line });
            }
            keys.push(key);
            if keys.len() > KEYS_MOST {
                return Err(KeyringError::TooMany);
            }
        }
        if keys.is_empty() { Err(KeyringError::Empty) } else { Ok(Keyring { keys }) }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Names, identities in logs, and whether the token is short of a good length.
    pub fn listed(&self) -> impl Iterator<Item = (&str, String, bool)> {
        self.keys.iter().map(|key| (key.name.as_str(), key.identity().to_string(), key.weak))
    }

    /// Looks at every key, whichever fits.
    pub(crate) fn find(&self, token: &str) -> Option<&Key> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(key);
            }
        }
        found
    }
}

fn key(line: usize, content: &str) -> Result<Key, KeyringError> {
    let fields: Vec<&str> = content.split_whitespace().collect();
    let (name, scopes, token, more) = match fields.as_slice() {
        [token] => (None, "all", *token, &[][..]),
        [name, scopes, token, more @ ..] if more.len() <= 2 => (Some(*name), *scopes, *token, more),
        fields => return Err(KeyringError::Form { line, fields: fields.len() }),
    };
    let (mut rate, mut tenant) = (None, None);
    for word in more {
        let fits = match word.split_once('=') {
            Some(("rate", text)) => text.parse().is_ok_and(|read| rate.replace(Bucket::new(read)).is_none()),
            Some(("tenant", text)) => !text.is_empty() && tenant.replace(TenantId::of(text)).is_none(),
            Some(_) | None => false,
        };
        if !fits {
            return Err(KeyringError::More { line });
        }
    }
    let tenant = tenant.or(name.map(TenantId::of)).unwrap_or(TenantId::DEFAULT);
    let name = name.map_or_else(|| format!("line-{line}"), str::to_owned);
    let scopes = match scopes {
        "all" => Scope::ALL.to_vec(),
        some => some.split(',').map(|scope| named(line, scope)).collect::<Result<_, _>>()?,
    };
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyringError::Unsendable { line });
    }
    if token.len() < LENGTH_LEAST {
        return Err(KeyringError::Short { line, length: token.len() });
    }
    let digest = Sha256::digest(token.as_bytes()).into();
    let bucket = rate.map(Arc::new);
    Ok(Key { name, scopes, tenant, digest, weak: token.len() < LENGTH_GOOD, bucket })
}

fn named(line: usize, name: &str) -> Result<Scope, KeyringError> {
    let scope = Scope::ALL.iter().find(|scope| scope.name() == name);
    scope.copied().ok_or_else(|| KeyringError::Scope { line, scope: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn lines_become_keys_with_their_scopes() {
        let text = format!("# mine\n\nci infer,read {LONG}\n  fedcba9876543210  \n");
        let ring = Keyring::parse(&text).unwrap();
        let listed: Vec<_> = ring.listed().map(|(name, _, weak)| (name, weak)).collect();
        assert_eq!(listed, [("ci", false), ("line-4", true)]);
        assert_eq!(ring.find(LONG).unwrap().scopes, [Scope::Infer, Scope::Read]);
        assert_eq!(ring.find("fedcba9876543210").unwrap().scopes, Scope::ALL);
        assert!(ring.find("fedcba987654321").is_none() && ring.find("").is_none());
        assert_eq!(Keyring::parse(&format!("a infer {LONG};b read fedcba9876543210")).unwrap().keys.len(), 2);
    }

    #[test]
    fn a_token_works_for_its_tenant() {
        let text = format!("ci infer {LONG}\nbot infer b{LONG} tenant=ci rate=1/s\nd{LONG}");
        let ring = Keyring::parse(&text).unwrap();
        let of = |token: &str| ring.find(token).unwrap().tenant;
        assert_eq!([of(LONG), of(&format!("b{LONG}"))], [TenantId::of("ci"); 2]);
        assert_eq!(of(&format!("d{LONG}")), TenantId::DEFAULT);
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_without_a_word_of_it() {
        for (text, error) in [
            ("short".to_owned(), KeyringError::Short { line: 1, length: 5 }),
            (format!("a {LONG}"), KeyringError::Form { line: 1, fields: 2 }),
            (format!("a infer {LONG} rate=1/s tenant=x y"), KeyringError::Form { line: 1, fields: 6 }),
            (format!("a infer {LONG} rate=1/s rate=2/s"), KeyringError::More { line: 1 }),
            (format!("a infer {LONG} tenant="), KeyringError::More { line: 1 }),
            (format!("a infer {LONG} {LONG}"), KeyringError::More { line: 1 }),
            (format!("a infer {LONG} rate=fast"), KeyringError::More { line: 1 }),
            (format!("a infer,root {LONG}"), KeyringError::Scope { line: 1, scope: "root".into() }),
            (format!("a infer {LONG}\nb read {LONG}"), KeyringError::Twice { line: 2 }),
            (format!("a infer {LONG}\na read fedcba9876543210"), KeyringError::Twice { line: 2 }),
            ("a infer 0123456789abcdefü".to_owned(), KeyringError::Unsendable { line: 1 }),
            ("# none".to_owned(), KeyringError::Empty),
            ((0..300).map(|i| format!("{LONG}{i};")).collect(), KeyringError::TooMany),
        ] {
            let found = Keyring::parse(&text).unwrap_err();
            assert_eq!(found, error);
            assert!(!found.to_string().contains("0123456789"), "{found}");
        }
        let shown = format!("{:?}", Keyring::parse(LONG).unwrap());
        assert!(!shown.contains(LONG) && !shown.contains("digest"), "{shown}");
    }
}
