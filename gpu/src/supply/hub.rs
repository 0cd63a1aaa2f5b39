//! The model hub, over HTTPS.
//!
//! One GET of a resolve URL, redirects followed, straight into the cache's partial file. Short patience:
//! five seconds for a connection, half a minute for a silent one, since another source is waiting. The
//! token goes to the hub alone and not along with a redirect.

use super::cache::Partial;
use super::catalog::Entry;
use super::{Failure, Options, Problem, Progress, Stage};
use std::io::Read;
use std::time::Duration;
use ureq::tls::{RootCerts, TlsConfig};

pub(crate) const DEFAULT: &str = "https://huggingface.co";
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);
const BUFFER: usize = 256 << 10;

pub(crate) fn fetch(
    entry: &Entry,
    options: &Options,
    partial: &mut Partial<'_>,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let [repository, revision, file] = entry.hub;
    let url = format!("{}/{repository}/resolve/{revision}/{file}", options.hub.trim_end_matches('/'));
    progress(Stage::Hub, 0, entry.bytes);
    let mut body = fetch_url(&url, options.hub_token.as_deref())?;
    copy(&mut body, partial, entry.bytes, |done| progress(Stage::Hub, done, entry.bytes))
}

/// Copies until the end, which has to come at `expected` bytes.
pub(crate) fn copy(
    from: &mut dyn Read,
    partial: &mut Partial<'_>,
    expected: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let broke_off = |partial: &Partial<'_>, what: String| {
            Failure::Source(Problem::Interrupted { done: partial.written(), expected, what })
        };
        match from.read(&mut buffer) {
            Ok(0) if partial.written() < expected => return Err(broke_off(partial, "it ended early".to_owned())),
            Ok(0) => return Ok(()),
            Ok(read) => {
                partial.append(&buffer[..read])?;
                progress(partial.written());
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(broke_off(partial, e.kind().to_string())),
        }
    }
}

/// The body behind a URL. The machine's own certificates and proxy settings apply.
fn fetch_url(url: &str, token: Option<&str>) -> Result<impl Read + use<>, Problem> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("orchestrion/", env!("CARGO_PKG_VERSION")));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match request.call() {
        Ok(response) => Ok(response.into_body().into_reader()),
        Err(ureq::Error::StatusCode(code)) => Err(Problem::Status { code }),
        // A few words of ureq's own; none of them quotes headers.
        Err(e) => Err(Problem::Unreachable { what: e.to_string().chars().take(200).collect() }),
    }
}
