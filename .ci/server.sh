# For scripts that need a running server: `start ORCH ARGUMENTS…` starts one on a free port with its files in
# $dir, waits until it is ready, and sets $url; it ends with the script. Source it.
dir=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap finish EXIT

start() {
  local orch=$1
  shift
  XDG_STATE_HOME=$dir "$orch" serve --bind 127.0.0.1:0 "$@" > "$dir/out" 2> "$dir/log" &
  server=$!
  for _ in $(seq 3000); do
    grep -q '^ready' "$dir/out" && break
    kill -0 "$server" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
  done
  url=$(grep -o 'http://127.0.0.1:[0-9]*' "$dir/out" | head -n 1)
}
