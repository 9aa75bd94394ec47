#!/usr/bin/env bash
# Starts the local system, has it tell a server on this machine what happens, and lets Standard Webhooks' own verifier
# for Python judge what arrived.
#
#   .ci/webhooks.sh [--port N] [BINARY]      BINARY: a built telbuddy-local; without it target/debug/telbuddy-local
#
# Needs the package standardwebhooks for the python3 on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

port=29787
binary=target/debug/telbuddy-local
while [ $# -gt 0 ]; do
  case $1 in
    --port) [ $# -ge 2 ] || { echo "webhooks: --port needs a number" >&2; exit 1; }; port=$2; shift 2 ;;
    *) binary=$1; shift ;;
  esac
done
python3 - "$binary" "$port" <<'PY'
import http.server, json, pathlib, re, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request

try:
    from standardwebhooks.webhooks import Webhook, WebhookVerificationError
except ImportError:
    sys.exit("webhooks: python3 has no standardwebhooks (pip install standardwebhooks)")

binary, port = sys.argv[1], int(sys.argv[2])
base = f"http://127.0.0.1:{port}"
received = []
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        received.append((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def call(method, path, body=None, cookie=None, key=None):
    headers = {"accept": "application/json"}
    headers |= {"cookie": cookie} if cookie else {}
    headers |= {"idempotency-key": key} if key else {}
    if body is not None:
        headers["content-type"] = "application/json"
        body = json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=body, headers=headers, method=method)
    with opener.open(request, timeout=30) as answer:
        text = answer.read()
        return (json.loads(text) if text else None), answer.headers


def eventually(what, ask):
    for _ in range(400):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    sys.exit(f"webhooks: waited 20 seconds and never saw that {what}")


def refused(secret, headers, body):
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def story():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    email, password = "ann@example.com", "correct horse battery staple"
    call("POST", "/v1/signup", {"name": "Ann", "email": email, "company": "Example", "password": password, "country": "US"})
    mail = eventually("a mail arrives", lambda: call("GET", "/_local/mail")[0]["data"])[0]
    call("POST", "/v1/email-verifications", {"token": re.search(r"token=(\S+)", mail["text"]).group(1)})
    cookie = call("POST", "/v1/sessions", {"email": email, "password": password})[1]["set-cookie"].split(";")[0]
    twilio = call("GET", "/_local/twilio")[0]
    credential = {name: twilio[name] for name in ("account_sid", "auth_token")}
    call("PUT", "/v1/credentials/twilio", credential, cookie)
    url = f"http://127.0.0.1:{server.server_port}/hooks?of=ann"
    endpoint = call("POST", "/v1/webhook-endpoints", {"url": url, "events": ["*"]}, cookie)[0]
    path, first = f"/v1/webhook-endpoints/{endpoint['id']}", endpoint["secret"]

    message = {"to": "+14155552671", "from": twilio["numbers"][0], "body": "Your table is ready."}
    call("POST", "/v1/messages", message, cookie, "one")
    eventually("two events arrive", lambda: len(received) >= 2)
    second = call("POST", f"{path}/secret", {}, cookie)[0]["secret"]
    call("POST", f"{path}/test", {}, cookie)
    eventually("a test arrives", lambda: len(received) >= 3)
    for headers, body in received:
        told = Webhook(first).verify(body, headers)
        assert told["id"] == headers["webhook-id"] and told["version"] == 1, told
        assert refused(first, headers, body.replace(b"evt_", b"evt-")), "a changed body was accepted"
        assert refused(first, headers | {"webhook-id": "evt_0"}, body), "another id was accepted"
        assert b"table" not in body and b"4155552671" not in body, body
    types = sorted(json.loads(body)["type"] for _, body in received)
    assert types == ["endpoint.test", "message.delivered", "message.sent"], types
    headers, body = received[-1]
    Webhook(second).verify(body, headers)
    assert refused(second, *received[0]), "the new secret signed before it was made"
    return len(received)


with tempfile.TemporaryDirectory() as folder:
    log = open(pathlib.Path(folder) / "log", "w+")
    arguments = [binary, "--port", str(port), "--data", f"{folder}/data"]
    system = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        for line in system.stdout:
            if line.startswith(f"TelBuddy is at {base} "):
                break
        else:
            log.seek(0)
            sys.exit(f"webhooks: the system did not start: {log.read()[-500:]}")
        n = story()
    finally:
        system.kill()
        system.wait()
print(f"webhooks: {n} events accepted by Standard Webhooks' verifier, and by no other secret, id or body")
PY
