#!/usr/bin/env bash
# Runs every function as Lambda does: the binaries under `cargo lambda watch`, called with each sample of events/ by
# `cargo lambda invoke`, against the doubles of AWS and Twilio. Fails if an answer is not the one in events/expected.tsv.
#
#   .ci/lambda.sh            needs cargo-lambda 1.9 on PATH (pip install cargo-lambda), python3, curl, setsid
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
sessions=()
fail() { echo "lambda: $*" >&2; exit 1; }

# Everything runs in sessions of our own, so that exactly what was started here is stopped, children included.
left() { local session; for session in "${sessions[@]}"; do ps -o pid= -s "$session" || true; done; }
# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
  local code=$? signal pids
  trap - EXIT INT TERM
  if [ "$code" -ne 0 ]; then
    for log in build doubles watch; do [ ! -s "$work/$log.log" ] || { echo "-- $log" >&2; tail -20 "$work/$log.log" >&2; }; done
  fi
  for signal in TERM KILL; do
    for _ in {1..50}; do
      read -r -d '' -a pids < <(left) || true
      [ "${#pids[@]}" -gt 0 ] || break 2
      kill "-$signal" "${pids[@]}" 2>/dev/null || true
      sleep 0.1
    done
  done
  rm -rf "$work"
  exit "$code"
}
trap stop EXIT
trap 'exit 130' INT TERM

# $1: log; the rest: the command. `setsid` makes the new session's id the process's own.
start() {
  local log=$work/$1.log
  shift
  setsid "$@" >"$log" 2>&1 </dev/null &
  sessions+=("$!")
}

# $1: a function that is true when it is there; $2: what. The session that was started last has to live on.
await() {
  for _ in {1..600}; do
    if "$1"; then return; fi
    kill -0 "${sessions[-1]}" 2>/dev/null || fail "$2 ended"
    sleep 0.1
  done
  fail "$2 did not start within a minute"
}

# Samples and functions have to fit together, and nothing may lie in events/ without being run.
python3 - <<'PY'
import collections, pathlib, sys
listed = [line.split("\t")[0] for line in open("events/expected.tsv") if line.strip() and not line.startswith("#")]
there = {str(path.relative_to("events")) for path in pathlib.Path("events").glob("*/*.json")}
count = collections.Counter(path.split("/")[0] for path in listed)
wrong = [f"{path}: not in events/expected.tsv" for path in sorted(there - set(listed))]
wrong += [f"{path}: in events/expected.tsv, but not there" for path in listed if path not in there]
wrong += [f"{f.name}: has fewer than two samples" for f in pathlib.Path("functions").iterdir() if count[f.name] < 2]
sys.exit("lambda: " + "\n".join(wrong) if wrong else 0)
PY

# `cargo lambda watch` runs `cargo run --bin <function>`, which looks into the default members only.
python3 - <<'PY'
import json, subprocess, sys
data = json.loads(subprocess.check_output(["cargo", "metadata", "--no-deps", "--format-version", "1"]))
default = set(data["workspace_default_members"])
out = [p["name"] for p in data["packages"] if "/functions/" in p["manifest_path"] and p["id"] not in default]
if out:
    sys.exit(f"lambda: {', '.join(out)}: not in default-members of Cargo.toml, so `cargo lambda watch` cannot run them")
PY
# Built with the same selection as `watch` does it, so that it builds nothing again; the doubles have their own.
echo "lambda: building"
functions=(functions/*)
cargo build "${functions[@]/#functions\//--bin=}" >"$work/build.log" 2>&1 || fail "the functions do not build"
cargo build --bin telbuddy-local >>"$work/build.log" 2>&1 || fail "the system of doubles does not build"

doubles() { grep -q "^AWS is at " "$work/doubles.log" && [ -s "$work/data/lambda.env" ]; }
start doubles cargo run --quiet -- --port 0 --data "$work/data" aws
await doubles "the system of doubles"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
watching() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
start watch cargo lambda watch --ignore-changes --concurrency 4 --env-file "$work/data/lambda.env" \
  --invoke-address 127.0.0.1 --invoke-port "$port"
await watching "cargo lambda watch"

# An answer in one word: the status, the count of records that go back to the queue, or null.
word() {
  python3 -c '
import json, sys
answer = json.load(sys.stdin)
if answer is None: print("null")
elif "statusCode" in answer: print(answer["statusCode"])
else: print("failures=%d" % len(answer["batchItemFailures"]))'
}

samples=0
wrong=0
while IFS=$'\t' read -r path expected; do
  case $path in '' | '#'*) continue ;; esac
  if timeout 120 cargo lambda invoke "${path%%/*}" --invoke-address 127.0.0.1 --invoke-port "$port" \
    --data-file "events/$path" >"$work/answer" 2>"$work/error" </dev/null; then
    got=$(word <"$work/answer" 2>/dev/null) || got="no answer that reads: $(head -c 300 "$work/answer")"
  else
    got="error: $(head -c 300 "$work/error" | tr -s '\n ' ' ')"
  fi
  samples=$((samples + 1))
  [ "$got" = "$expected" ] || { wrong=$((wrong + 1)); echo "lambda: events/$path: expected $expected, got $got" >&2; }
  # A function that does not start keeps every further call waiting.
  case $got in error:*) fail "events/$path: no answer" ;; esac
done <events/expected.tsv

# The router: all routes on one port, as [workspace.metadata.lambda.watch.router] says.
routes=0
while read -r method path expected; do
  got=$(curl --noproxy '*' --silent --max-time 60 --output "$work/answer" --write-out '%{http_code}' --request "$method" \
    --header 'content-type: application/json' "http://127.0.0.1:$port$path") || got="error $?"
  routes=$((routes + 1))
  [ "$got" = "$expected" ] || { wrong=$((wrong + 1)); echo "lambda: $method $path: expected $expected, got $got" >&2; }
done <<'ROUTES'
GET /v1/health 200
GET /v1/openapi.json 200
POST /v1/health 405
POST /v1/signup 400
POST /v1/email-verifications 400
POST /v1/sessions 400
GET /v1/sessions 401
GET /v1/sessions/current 401
DELETE /v1/sessions/ses_01KAV0ZA0B1C2D3E4F5G6H7J8K 401
PUT /v1/credentials/twilio 401
POST /v1/credentials/twilio/rotation 401
POST /v1/messages 401
GET /v1/messages?limit=5 401
GET /v1/messages/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
GET /v1/messages/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z?include=content 401
GET /v1/messages/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/media/0 401
DELETE /v1/messages/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
POST /v1/messages/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/decision 401
GET /v1/templates?limit=5 401
POST /v1/templates 401
GET /v1/templates/tpl_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
PUT /v1/templates/tpl_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
DELETE /v1/templates/tpl_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
GET /v1/numbers 401
POST /v1/numbers/PN0123456789abcdef0123456789abcdef/connection?dry_run=true 401
DELETE /v1/numbers/PN0123456789abcdef0123456789abcdef/connection 401
GET /v1/account 401
PATCH /v1/account 401
GET /v1/account/api-keys 401
POST /v1/account/api-keys 401
PUT /v1/credits/overage 401
DELETE /v1/account/api-keys/key_01KAV0ZA0B1C2D3E4F5G6H7J8K 401
GET /v1/sending-policy 401
PUT /v1/sending-policy 401
POST /v1/account/sending/unfreeze 401
GET /v1/usage?granularity=day&group_by=country 401
GET /v1/usage/errors 401
GET /v1/reconciliations?limit=5 401
GET /v1/reconciliations/2026-11-22 401
POST /v1/reconciliations/2026-11-22/decision 401
GET /v1/credits 401
GET /v1/credits/entries?month=2026-11 401
GET /v1/statements/2026-11 401
GET /v1/access-log 401
GET /v1/quarantine 401
GET /v1/opt-outs?limit=5 401
POST /v1/opt-outs 401
POST /v1/opt-outs/removals 401
POST /v1/opt-outs/check 401
GET /v1/webhook-endpoints 401
POST /v1/webhook-endpoints 401
GET /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
PATCH /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
DELETE /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 401
POST /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/secret 401
POST /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/test 401
POST /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/recover 401
GET /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/deliveries 401
GET /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/deliveries/wdel_01KAV0ZC8P3S6T9V2W5X7Y0Z1A 401
POST /v1/webhook-endpoints/whep_01KAV0ZB7N2R5S8T1V4W6X9Y0Z/deliveries/wdel_01KAV0ZC8P3S6T9V2W5X7Y0Z1A/resend 401
GET /v1/billing/plans 200
POST /v1/billing/checkout 401
POST /v1/billing/top-ups 401
POST /v1/billing/portal 401
GET /v1/billing/subscription 401
GET /v1/billing/invoices?limit=5 401
POST /hooks/platform/messages 404
POST /hooks/stripe 400
POST /hooks/twilio/guess/messages 404
POST /hooks/twilio/guess/status/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 404
POST /hooks/twilio/guess/voice 404
POST /hooks/twilio/guess/self-test 404
POST /hooks/twilio/guess/calls/call_01KAV0ZB7N2R5S8T1V4W6X9Y0Z 404
ROUTES

if grep -q '"level":"ERROR".*panicked' "$work/watch.log"; then fail "a function panicked"; fi
compiled=$(grep -c '^ *Compiling ' "$work/watch.log" || true)
[ "$compiled" -eq 0 ] || fail "cargo lambda watch built $compiled crates again: its features are not those of cargo build"
[ "$wrong" -eq 0 ] || fail "$wrong of $samples samples and $routes routes answered otherwise"
echo "lambda: $samples samples of ${#functions[@]} functions and $routes routes answered as expected"
