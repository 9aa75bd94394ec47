#!/usr/bin/env bash
# Twilio's official libraries sign webhooks, npm `twilio` and PyPI `twilio`, and the running system believes exactly
# these: forms, JSON with bodySHA256, both tokens in a rotation, a shared key.
#
#   .ci/signers.sh [BINARY]      needs node, npm and python3; BINARY: a built telbuddy-local, else `cargo run`
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then system=("$(realpath "$1")"); else system=(cargo run --quiet --); fi

work=$(mktemp -d)
server=
# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
  local code=$?
  if [ "$code" -ne 0 ] && [ -s "$work/log" ]; then tail -5 "$work/log" >&2; fi
  if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check twilio==9.13.0
npm install --silent --no-save --no-audit --no-fund --prefix "$work" twilio@6.2.0 >/dev/null

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"${system[@]}" --port "$port" --data "$work/data" >"$work/out" 2>"$work/log" &
server=$!
disown "$server" # without this bash reports the kill
for ((n = 0; n < 9000; n++)); do
  grep -q "^TelBuddy is at http://127.0.0.1:$port " "$work/out" && break
  kill -0 "$server" 2>/dev/null || { echo "signers: the system did not start" >&2; exit 1; }
  sleep 0.2
done

# One line of JSON in, one signature out: {"token", "url", "params": {name: value or list} or null, "body"}.
cat >"$work/sign.js" <<'JS'
const { getExpectedTwilioSignature, getExpectedBodyHash } = require("twilio/lib/webhooks/webhooks");
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { token, url, params, body } = JSON.parse(line);
  const full = body === undefined ? url : `${url}?bodySHA256=${getExpectedBodyHash(body)}`;
  console.log(JSON.stringify({ url: full, signature: getExpectedTwilioSignature(token, full, params) }));
});
JS

NODE_PATH=$work/node_modules "$work/venv/bin/python" - "http://127.0.0.1:$port" "$work/sign.js" <<'PY'
"""Signs up, connects the double's account, and posts what the libraries sign."""
import base64, json, re, subprocess, sys, time, urllib.error, urllib.parse, urllib.request
from twilio.request_validator import RequestValidator

base, script = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
node = subprocess.Popen(["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def send(method, url, data=None, headers=None):
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    status, text = send(method, base + path, data, {"content-type": "application/json", **headers})
    if status >= 300:
        sys.exit(f"signers: {method} {path}: {status} {text}")
    return json.loads(text) if text else None


def by_npm(token, url, params=None, body=None):
    ask = {"token": token, "url": url, "params": params} | ({} if body is None else {"body": body})
    node.stdin.write(json.dumps(ask) + "\n")
    node.stdin.flush()
    answer = json.loads(node.stdout.readline())
    return answer["url"], answer["signature"]


class Many(dict):
    def getall(self, name):
        return self[name] if isinstance(self[name], list) else [self[name]]


def by_pypi(token, url, params=None, body=None, algorithm=None):
    validator = RequestValidator(token)
    if body is not None:
        url = f"{url}?bodySHA256={validator.compute_hash(body)}"
    return url, validator.compute_signature(url, Many(params or {}), algorithm)


def connect():
    password = "correct horse battery staple"
    person = {"name": "Ann Example", "email": "ann@example.com", "company": "Example Ltd", "country": "US"}
    call("POST", "/v1/signup", person | {"password": password})
    for _ in range(100):
        found = re.search(r"tbv_[\w-]+", json.dumps(call("GET", "/_local/mail", accept="application/json")))
        if found:
            break
        time.sleep(0.2)
    call("POST", "/v1/email-verifications", {"token": found.group()})
    call("POST", "/v1/sessions", {"email": person["email"], "password": password})
    double = call("GET", "/_local/twilio")
    sid, token = double["account_sid"], double["auth_token"]
    shown = call("PUT", "/v1/credentials/twilio", {"account_sid": sid, "auth_token": token})
    return double, sid, token, shown["inbound_url"]


double, sid, token, inbound = connect()
texts = 0


def form(**more):
    global texts
    texts += 1
    return {
        "MessageSid": f"SM{texts:032x}", "AccountSid": sid, "From": "+14155552671", "To": double["numbers"][0],
        "NumSegments": "1", "NumMedia": "0", "Body": "a b+c & = % ü 👍\r\n", "Empty": "",
    } | more


checked = 0


def expect(wanted, what, url, signature, params=None, body=None, **headers):
    global checked
    checked += 1
    if body is None:
        data, kind = urllib.parse.urlencode(params, doseq=True).encode(), "application/x-www-form-urlencoded"
    else:
        data, kind = body.encode(), "application/json"
    status, text = send("POST", url, data, {"content-type": kind, "x-twilio-signature": signature, **headers})
    if status != wanted:
        sys.exit(f"signers: {what}: expected {wanted}, got {status} {text}")


def refused(cause):
    records = call("GET", "/v1/quarantine")["data"]
    return next((record["count"] for record in records if record["cause"] == cause), 0)


wrong = "0" * 32
status_url = inbound.replace("/messages", "/status/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z")
for name, sign in (("npm", by_npm), ("PyPI", by_pypi)):
    for url, params, wanted in (
        (inbound, form(), 200),
        (inbound, form(MediaUrl0=["b", "a", "b"]), 200),
        (inbound + "?a=1&b=%20c", form(), 200),
        (status_url, form(MessageStatus="delivered"), 204),
        (inbound.replace("/messages", "/voice"), form(CallSid="CA" + "0" * 32, CallStatus="ringing"), 200),
    ):
        expect(wanted, f"{name}: {url}", *sign(token, url, params), params)
        expect(403, f"{name}, another token: {url}", *sign(wrong, url, params), params)
        expect(403, f"{name}, another text: {url}", *sign(token, url, params), params | {"Body": "changed"})
    # None of the webhooks here is JSON: what is believed is refused for naming no account, and counted as that.
    body = json.dumps({"text": "ü"}, ensure_ascii=False)
    believed, signature = sign(token, inbound, None, body)
    before = refused("other_account")
    expect(403, f"{name}: JSON", believed, signature, body=body)
    if refused("other_account") != before + 1:
        sys.exit(f"signers: {name}: JSON with bodySHA256 is not believed: {call('GET', '/v1/quarantine')}")
    before = refused("body_hash_mismatch")
    expect(403, f"{name}: JSON that was changed", believed, signature, body=body + " ")
    if refused("body_hash_mismatch") != before + 1:
        sys.exit(f"signers: {name}: JSON that was changed is refused for another reason")

# A rotation: both tokens sign.
new = call("POST", f"/_local/twilio/accounts/{sid}/secondary-token", {})["secondary_auth_token"]
call("POST", "/v1/credentials/twilio/rotation", {"auth_token": new})
for name, sign in (("npm", by_npm), ("PyPI", by_pypi)):
    for which in (token, new):
        params = form()
        expect(200, f"{name}: in a rotation", *sign(which, inbound, params), params)

# A shared key signs, with SHA-256: the PyPI library knows these.
call("POST", f"/_local/twilio/accounts/{sid}/secondary-token/promote", {})
auth = "Basic " + base64.b64encode(f"{sid}:{new}".encode()).decode()
keys = f"{double['base_url']}/2010-04-01/Accounts/{sid}/Keys.json"
made, text = send("POST", keys, b"FriendlyName=telbuddy", {"authorization": auth})
if made != 201:
    sys.exit(f"signers: no API key: {made} {text}")
key = json.loads(text)
shared = {"signing_key_id": "webhooks_sharedkey_01kav0zb7n2r5s8t1v4w6x9y0z", "signing_key": "s" * 32}
call("PUT", "/v1/credentials/twilio",
     {"account_sid": sid, "api_key_sid": key["sid"], "api_key_secret": key["secret"]} | shared)
settings = f"key={shared['signing_key_id']},algorithm=HMAC_SHA256"
params = form()
url, signature = by_pypi(shared["signing_key"], inbound, params, algorithm="HMAC_SHA256")
expect(200, "PyPI: a shared key", url, signature, params, **{"x-twilio-webhooks-signature-settings": settings})
expect(403, "PyPI: a shared key, another text", url, signature, params | {"Body": "x"},
       **{"x-twilio-webhooks-signature-settings": settings})
print(f"signers: {checked} requests signed by npm twilio 6.2.0 and PyPI twilio 9.13.0 answered as they should")
PY
