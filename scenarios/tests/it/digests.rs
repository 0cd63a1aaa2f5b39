//! Runs come to the digests that are committed. `.ci/run` holds the released build to the same file, so that a
//! debug build, a released one and every machine that runs either decide alike, to the last bit of the state.

use orchestrion_scenarios::file;
use orchestrion_scenarios::simulate::simulate;
use std::path::Path;

/// `FILE DIGEST` in a line.
const DIGESTS: &str = "digests.txt";
/// A file whose arrivals end so late is run for a hundredth of that.
const SHORTENED: (&str, &str) = ("to_ms = 100_000 ", "to_ms = 1_000 ");

#[test]
fn runs_come_to_the_digests_that_released_builds_come_to() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(root.join(DIGESTS)).unwrap();
    let digest = |line: &str| {
        let name = line.split(' ').next().unwrap();
        let path = root.join(name);
        let text = std::fs::read_to_string(&path).unwrap().replace(SHORTENED.0, SHORTENED.1);
        let plan = file::read(&text, path.parent().unwrap(), None, &[]).unwrap().plan;
        format!("{name} {}\n", simulate(plan, &mut |_| {}).unwrap().digest)
    };
    let found: String = committed.lines().map(digest).collect();
    if std::env::var_os("UPDATE_CASES").is_some() {
        std::fs::write(root.join(DIGESTS), found).unwrap();
    } else {
        assert_eq!(found, committed, "UPDATE_CASES=1 writes them anew, where a change of decisions is meant");
    }
}
