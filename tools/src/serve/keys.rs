//! Where the tokens of `auth` come from: a file, else a credential of systemd, else the environment.
//!
//! The first that is there counts alone. Tokens never pass through the configuration's layers, so that no
//! message about a key of it can quote one; what is read here becomes digests at once.

use crate::failure::{Code, Failure};
use orchestrion_api::auth::{Auth, Keyring};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The credential's name in a unit: `LoadCredential=api-keys:/etc/orchestrion/keys`.
const CREDENTIAL: &str = "api-keys";
/// Room for every token that a keyring takes.
const FILE_BYTES: u64 = 256 * 1024;

/// Holds tokens, as the file of `auth.tokens_file` does.
pub(crate) const TOKENS_VARIABLE: &str = "ORCHESTRION_AUTH__TOKENS";

/// Who may ask. The tokens themselves are no part of it: see [`Sources`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Lines of `name scopes token`, readable by its owner alone.
    pub tokens_file: Option<PathBuf>,
    /// Callers on this machine need no token, though others do. Not behind a proxy on this machine.
    pub optional: bool,
    /// Answered without a token, though there are tokens.
    pub metrics_open: bool,
    pub health_open: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { tokens_file: None, optional: false, metrics_open: true, health_open: true }
    }
}

/// Where tokens may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub file: Option<PathBuf>,
    pub credentials: Option<PathBuf>,
    pub environment: Option<OsString>,
}

impl Sources {
    pub(crate) fn of(config: &Settings) -> Sources {
        Sources {
            file: config.tokens_file.clone(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            environment: std::env::var_os(TOKENS_VARIABLE),
        }
    }

    /// The tokens; an empty keyring where no source is there.
    fn keyring(&self) -> Result<Keyring, Failure> {
        if let Some(file) = &self.file {
            return parse(&file.display().to_string(), &read(file, Privacy::Checked)?);
        }
        if let Some(file) = self.credentials.as_ref().map(|dir| dir.join(CREDENTIAL)).filter(|file| file.exists()) {
            // systemd keeps these where only the service reaches them, under modes of its own.
            return parse(&file.display().to_string(), &read(&file, Privacy::Given)?);
        }
        match &self.environment {
            None => Ok(Keyring::default()),
            Some(text) => {
                let text = text.to_str().ok_or_else(|| bad(format!("{TOKENS_VARIABLE} is not UTF-8")))?;
                parse(TOKENS_VARIABLE, text)
            }
        }
    }
}

/// Who keeps others from reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Privacy {
    Checked,
    Given,
}

/// What the door asks its callers for; says which tokens there are, never a token.
pub(crate) fn auth(config: &Settings, bind: SocketAddr, sources: &Sources) -> Result<Auth, Failure> {
    let keyring = sources.keyring()?;
    if keyring.is_empty() && !bind.ip().is_loopback() {
        return Err(bad(format!(
            "40301: {bind} is not a loopback address and there is no token to ask of clients; set \
             `auth.tokens_file` or {TOKENS_VARIABLE}, or listen on 127.0.0.1"
        )));
    }
    for (name, identity, weak) in keyring.listed() {
        tracing::info!(name, identity, "a token is known");
        if weak {
            tracing::warn!(name, identity, "this token is under 32 characters; make a longer one");
        }
    }
    let Settings { tokens_file: _, optional, metrics_open, health_open } = *config;
    Ok(Auth { keyring, optional, metrics_open, health_open })
}

fn parse(source: &str, text: &str) -> Result<Keyring, Failure> {
    Keyring::parse(text).map_err(|error| bad(format!("{source}: {error}")))
}

fn read(path: &Path, privacy: Privacy) -> Result<String, Failure> {
    let problem =
        |what: &dyn std::fmt::Display| bad(format!("the tokens in {} cannot be read: {what}", path.display()));
    let file = File::open(path).map_err(|error| problem(&error))?;
    // Of what was opened, so that nobody exchanges the file in between.
    let facts = file.metadata().map_err(|error| problem(&error))?;
    if !facts.is_file() {
        return Err(problem(&"it is not a file"));
    }
    let mode = facts.mode() & 0o777;
    if privacy == Privacy::Checked && mode & 0o077 != 0 {
        let what = format!("others than its owner may read or change it (mode {mode:04o}); run `chmod 600` on it");
        return Err(problem(&what));
    }
    if facts.len() > FILE_BYTES {
        return Err(problem(&format!("it is larger than {FILE_BYTES} bytes")));
    }
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text).map_err(|error| problem(&error))?;
    Ok(text)
}

fn bad(problem: String) -> Failure {
    Failure::new(Code::BadConfig, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn keys_file(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("{name} all {name}-{KEY}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn name(sources: &Sources) -> String {
        let keyring = sources.keyring().unwrap();
        keyring.listed().map(|(name, _, _)| name.to_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_file_goes_before_the_credential_and_that_before_the_environment() {
        let dir = std::env::temp_dir().join(format!("orch-keys-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut sources = Sources {
            file: Some(keys_file(&dir, "file", 0o600)),
            credentials: Some(dir.clone()),
            environment: Some(format!("environment all {KEY}").into()),
        };
        keys_file(&dir, CREDENTIAL, 0o440);
        assert_eq!(name(&sources), "file");
        sources.file = None;
        assert_eq!(name(&sources), CREDENTIAL);
        std::fs::remove_file(dir.join(CREDENTIAL)).unwrap();
        assert_eq!(name(&sources), "environment");
        sources.environment = None;
        assert_eq!(name(&sources), "");

        for mode in [0o640, 0o604, 0o620] {
            let file = Some(keys_file(&dir, "open", mode));
            let error = Sources { file, ..Sources::default() }.keyring().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains(KEY), "{error}");
        }
        let missing = Sources { file: Some(dir.join("none")), ..sources };
        assert!(missing.keyring().is_err(), "a file that is named has to be there");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_with_a_token_others_than_this_machine_are_answered() {
        let config = Settings::default();
        let with = Sources { environment: Some(KEY.into()), ..Sources::default() };
        for bind in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:127.0.0.1]:1"] {
            let bind = bind.parse().unwrap();
            let error = auth(&config, bind, &Sources::default()).unwrap_err().to_string();
            assert!(error.contains("40301"), "{error}");
            assert!(auth(&config, bind, &with).is_ok());
        }
        assert!(auth(&config, "127.0.0.1:1".parse().unwrap(), &Sources::default()).unwrap().keyring.is_empty());
        let short = Sources { environment: Some("secret".into()), ..Sources::default() };
        let error = auth(&config, "127.0.0.1:1".parse().unwrap(), &short).unwrap_err().to_string();
        assert!(error.contains("16") && !error.contains("secret"), "{error}");
    }
}
