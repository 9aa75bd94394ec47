#!/usr/bin/env bash
# Runs the bash blocks of README.md's "A first message" in order, against a system that it starts and stops itself.
# Fails if a command fails or a block's answer lacks what the README promises, before and after a kill -9.
#
#   .ci/walk.sh [--port N] [BINARY]      BINARY: a built telbuddy-local; without it, `cargo run`
set -euo pipefail

fail() { echo "walk: $*" >&2; exit 1; }

port=28787
binary=
while [ $# -gt 0 ]; do
  case $1 in
    --port) [ $# -ge 2 ] || fail "--port needs a number"; port=$2; shift 2 ;;
    -*) fail "unknown option $1; usage: .ci/walk.sh [--port N] [BINARY]" ;;
    *) binary=$(realpath "$1"); shift ;;
  esac
done
cd "$(dirname "$0")/.."
readme=$PWD/README.md
if [ -n "$binary" ]; then system=("$binary"); else system=(cargo run --quiet --); fi

work=$(mktemp -d)
export TMPDIR=$work
server=
# shellcheck disable=SC2317 # called by the trap
stop() {
  local code=$?
  if [ "$code" -ne 0 ] && [ -s "$work/log" ]; then
    echo "walk: the system's last lines:" >&2
    tail -5 "$work/log" >&2
  fi
  if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; gone; fi
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

gone() { while kill -0 "$server" 2>/dev/null; do sleep 0.05; done; }

# `cargo run` replaces itself by the program, so $! is the system either way.
start() {
  : >"$work/out"
  "${system[@]}" --port "$port" --data "$work/data" >"$work/out" 2>>"$work/log" &
  server=$!
  disown "$server" # without this bash reports the kill in the middle of the walk
  # A first build takes minutes.
  for ((n = 0; n < 9000; n++)); do
    if grep -q "^TelBuddy is at http://127.0.0.1:$port " "$work/out"; then return; fi
    kill -0 "$server" 2>/dev/null || fail "the system did not start: $(tail -1 "$work/log")"
    sleep 0.2
  done
  fail "the system did not say within half an hour that it is there"
}

# The blocks call these instead of the programs: an HTTP error is a failure, also inside a pipeline, and only the
# system that was started here is killed.
curl() {
  local rc=0
  command curl --noproxy '*' --max-time 30 --fail-with-body --show-error "$@" || rc=$?
  [ "$rc" -eq 0 ] || echo "curl ended with $rc" >>"$work/failed"
  return "$rc"
}
pidof() { echo "$server"; }

awk -v dir="$work" '
  /^## / { inside = /^## A first message/ }
  inside && /^```bash$/ { file = sprintf("%s/block-%02d", dir, ++count); next }
  /^```/ { if (file) close(file); file = "" }
  file { print > file }
' "$readme"
blocks=("$work"/block-*)
[ -e "${blocks[0]}" ] || fail "no bash blocks under \"## A first message\" in README.md"
# Loopback only: `|| true`, since grep finds nothing when all is well.
foreign=$(grep -ohE 'https?://[^ "$]+' "${blocks[@]}" | grep -vE '^http://127\.0\.0\.1:8787(/|;|$)' || true)
[ -z "$foreign" ] || fail "the walk may call this machine only, not $foreign"
sed -i "s/127\.0\.0\.1:8787/127.0.0.1:$port/g" "${blocks[@]}"

promised() {
  for word in '"delivered"' message_segments '"included","granted_micro":6000000000'; do
    grep -q "$word" "$work/answers" || fail "no $word in the answers $1"
  done
}

start
: >"$work/answers"
killed=
for block in "${blocks[@]}"; do
  sed 's/^/$ /' "$block"
  current=${block##*/}
  trap 'fail "$current failed"' ERR
  # As a person's shell does: grep that finds nothing yet is no failure. What curl says is noted above.
  set +o pipefail
  # shellcheck source=/dev/null # in this shell: later blocks use the variables of earlier ones
  . "$block" >"$work/answer"
  set -o pipefail
  trap - ERR
  cat "$work/answer"
  cat "$work/answer" >>"$work/answers"
  [ ! -s "$work/failed" ] || fail "$current: $(cat "$work/failed")"
  if grep -q '^kill -9 ' "$block"; then
    promised "before kill -9"
    gone
    killed=yes
    start
    : >"$work/answers"
  fi
done
[ -n "$killed" ] || fail "the walk never kills the system"
promised "after kill -9"
echo "walk: ${#blocks[@]} blocks, delivered and counted, before and after kill -9"
