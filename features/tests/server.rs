//! A server of the product's own binary, on a port of its own, with its files in a folder of its own. It is
//! killed when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The binary under test: that of this build, or the one that `ORCH_TEST_BINARY` names.
pub(crate) fn binary() -> String {
    std::env::var("ORCH_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_orch").to_owned())
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) pools: usize,
    pub(crate) slots: u16,
    pub(crate) simd: &'static str,
    /// Further sections of the configuration file.
    pub(crate) more: String,
    /// Tokens of clients, as in the file of `auth.tokens_file`.
    pub(crate) tokens: Option<&'static str>,
    /// What lies in its folder besides.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { pools: 1, slots: 4, simd: "auto", more: String::new(), tokens: None, files: vec![] }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) dir: PathBuf,
}

/// Long enough for a loaded machine; only a server that hangs ever takes it.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) fn start(setup: &Setup) -> Server {
        let dir = scratch();
        let mut config = format!("{}\n", setup.more);
        for pool in ["a", "b", "c"].iter().take(setup.pools) {
            let model = tiny_model().display();
            config += &format!(
                "[[pools]]\nid = \"{pool}\"\nmodel = \"{model}\"\nmodel_name = \"tiny\"\nslots = {}\nthreads = 1\nsimd = \"{}\"\n",
                setup.slots, setup.simd,
            );
        }
        std::fs::write(dir.join("orchestrion.toml"), config).unwrap();
        setup.files.iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
        let (child, url) = launch(&dir, "127.0.0.1:0", setup.tokens);
        Server { child, url, dir }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Asks it to go down, as systemd would, and waits until it did.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not go down");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts the binary in a folder with a configuration, and waits until it is ready.
pub(crate) fn launch(dir: &Path, bind: &str, tokens: Option<&str>) -> (Child, String) {
    // The shell is gone with `exec`. A write beyond a limit is to fail, as it does on a full disk, and not to
    // end the process by a signal.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#, &binary()]);
    if let Some(tokens) = tokens {
        command.env("ORCHESTRION_AUTH__TOKENS", tokens);
    }
    let mut child = command
        .args(["serve", "--bind", bind, "--config", "orchestrion.toml", "--journal", "journal"])
        .current_dir(dir)
        .env("XDG_CACHE_HOME", dir)
        .env("XDG_STATE_HOME", dir)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = lines.find_map(|line| {
        let line = line.unwrap();
        line.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:")).map(str::to_owned)
    });
    let Some(url) = listening else {
        panic!("the server said no address: {}", std::fs::read_to_string(dir.join("log")).unwrap());
    };
    // It says so when every pool is up; probes are content with one.
    let ready = lines.any(|line| line.unwrap().starts_with("ready"));
    assert!(ready, "the server did not get ready: {}", std::fs::read_to_string(dir.join("log")).unwrap());
    // Its further words are nobody's, but the pipe has to be emptied.
    std::thread::spawn(move || lines.for_each(drop));
    (child, url)
}

/// What another command of the binary says on stdout, and whether it ended well.
pub(crate) fn orch(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(binary()).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The tiny model of all promises, made once.
pub(crate) fn tiny_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tiny-{}.gguf", env!("CARGO_CRATE_NAME")));
        let (well, _, errors) = orch(&["gen", path.to_str().unwrap()]);
        assert!(well, "{errors}");
        path
    })
}

/// A folder of its own.
pub(crate) fn scratch() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("orch-{}-{}", std::process::id(), unique()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
