# What .ci/run and .ci/soak share. Source it from the root of the tree; `minutes` ends a script.
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 CARGO_NET_RETRY=5 INSTA_UPDATE=no
table=()
# What random stages draw from: SEED, or 1, so that a commit that passed passes again. .ci/soak draws anew.
seed=${SEED:-1}

# What a log's last lines say where a stage ends the script.
now="the beginning"
trap 'code=$?; [ $code = 0 ] || echo "FAILED after $SECONDS s, with $code, in: $now" >&2' EXIT

stage() {
  local name=$1; shift
  local began=$SECONDS
  now=$name
  echo "== $name"
  echo "+ $*"
  "$@"
  table+=("$(printf '%3dm%02ds  %s' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) "$name")")
}

# Python packages of the independent implementations: llama.cpp, numpy, the gguf reader.
oracle_python() {
  python3 -m venv target/oracle
  .ci/pip target/oracle/bin/python install xllamacpp==2026.10.11549 numpy==2.4.6 gguf==0.19.0 \
    tokenizers==0.23.3
}

# The official client of OpenAI's API, against a server of this build.
client_python() {
  .ci/pip target/oracle/bin/python install openai==3.54.0 jsonschema==4.26.0
}

# A target, so many runs. In memory where there is such a folder: journals are files.
fuzz() {
  local folder=/dev/shm
  [ -w "$folder" ] || folder=${TMPDIR:-/tmp}
  TMPDIR=$folder target/release/examples/fuzz --target "$1" --runs "$2" --seed "$seed"
}

# Trials of the binary that is released, longer than `cargo test` has time for. Of the whole workspace, as all tests
# are: a package alone has other features, and everything below it would be built once more.
trial() {
  ORCH_TEST_BINARY=$PWD/target/release/orch cargo test --workspace --test trials "$1" -- --nocapture
}

# So many tasks.
crash() {
  ORCH_CRASH_TASKS=$1 trial a_killed_server
}

# So many random requests over random workers.
choices() {
  PROPTEST_CASES=$1 cargo test --workspace --lib choose_and_explain
}

# The released build decides as the debug build that `cargo test` held to the same file: scenarios/tests/it/digests.rs
# says how these runs are shortened.
digests() {
  local file want found
  while read -r file want; do
    sed 's/to_ms = 100_000 /to_ms = 1_000 /' "scenarios/$file" >target/shortened.toml
    found=$(target/release/orch simulate target/shortened.toml --output json |
      sed -n 's/.*"digest": *"\([0-9a-f]*\)".*/\1/p')
    echo "$file $found"
    [ "$found" = "$want" ] || { echo "it is $want in scenarios/digests.txt" >&2; return 1; }
  done <scenarios/digests.txt
}

# Counted by valgrind; the runner has to be of the library's version.
instructions() {
  command -v valgrind || { sudo -n apt-get install -y valgrind || apt-get install -y valgrind; }
  cargo install --root target/gungraun --version 0.20.0 gungraun-runner
  GUNGRAUN_RUNNER=$PWD/target/gungraun/bin/gungraun-runner cargo bench -p orchestrion-scenarios --bench step
}

# So many seconds.
overload() {
  ORCH_OVERLOAD_S=$1 trial ten_times_the_load
}

# So many seconds.
mixed() {
  ORCH_SOAK_S=$1 trial a_mixed_load
}

# The models, for `oracle` and what else needs them: $model, which is the product's own, and $gemma, for tests alone.
models() {
  stage "oracle: python" oracle_python
  model=$(./target/release/orch pull smollm2-135m)
  stage "oracle: gemma" .ci/oracle/gemma target/oracle/bin/python "$(dirname "$model")"
  gemma=$(.ci/oracle/gemma target/oracle/bin/python "$(dirname "$model")")
}

oracle() {
  local script=$1; shift
  target/oracle/bin/python ".ci/oracle/$script" --trace target/release/examples/trace --model "$model" "$@"
}

minutes() {
  echo "== minutes by stage"
  printf '%s\n' "${table[@]}"
}
