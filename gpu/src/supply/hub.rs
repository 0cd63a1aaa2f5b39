//! The model hub, over HTTPS.
//!
//! One GET of a resolve URL, a few redirects followed where `guard` lets them, straight into the cache's partial
//! file. Short patience: five seconds for a connection, half a minute for a silent one, since another source
//! is waiting. The token goes to the hub alone and not along with a redirect.

use super::cache::Partial;
use super::catalog::Entry;
use super::guard::Guard;
use super::{Failure, Options, Problem, Progress, Stage};
use std::io::Read;
use std::time::Duration;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Proxy};

pub(crate) const DEFAULT: &str = "https://huggingface.co";
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTS: u32 = 3;
const BUFFER: usize = 256 << 10;

pub(crate) fn fetch(
    entry: &Entry,
    [repository, revision, file]: [&str; 3],
    options: &Options,
    partial: &mut Partial<'_>,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let url = format!("{}/{repository}/resolve/{revision}/{file}", options.hub.trim_end_matches('/'));
    progress(Stage::Hub, 0, entry.bytes);
    let mut body = fetch_url(&url, options)?;
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

/// The body behind a URL of the hub's. The machine's own certificates and proxy settings apply.
fn fetch_url(url: &str, options: &Options) -> Result<impl Read + use<>, Problem> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .max_redirects(REDIRECTS)
        // An operator's own hub may speak plainly; from any other nothing leads out of TLS.
        .https_only(url.starts_with("https:"))
        .user_agent(concat!("orchestrion/", env!("CARGO_PKG_VERSION")));
    let hub: Option<Uri> = url.parse().ok().filter(|_| options.hub != DEFAULT);
    let hub = hub.and_then(|hub| hub.host().map(str::to_owned));
    // A proxy resolves for us, by its own rules.
    let proxy = Proxy::try_from_env().map(|proxy| proxy.host().to_owned());
    let guard = Guard { trusted: hub.into_iter().chain(proxy).collect() };
    let agent = Agent::with_parts(config.build(), DefaultConnector::default(), guard);
    let mut request = agent.get(url);
    if let Some(token) = &options.hub_token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match request.call() {
        Ok(response) => Ok(response.into_body().into_reader()),
        Err(ureq::Error::StatusCode(code)) => Err(Problem::Status { code }),
        // The guard's words.
        Err(ureq::Error::Other(e)) => Err(Problem::Unreachable { what: e.to_string() }),
        // A few words of ureq's own; none of them quotes headers.
        Err(e) => Err(Problem::Unreachable { what: e.to_string().chars().take(200).collect() }),
    }
}
