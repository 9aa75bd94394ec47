#!/usr/bin/env bash
# Checks template.yaml: `sam validate --lint` and `cfn-lint` find nothing, and what it declares is what the code has.
#
#   .ci/template.sh          needs sam (aws-sam-cli) and cfn-lint on PATH, and the python that cfn-lint runs in or PyYAML
set -euo pipefail
cd "$(dirname "$0")/.."

export SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-us-east-1}"
sam validate --lint --template-file template.yaml >/dev/null
cfn-lint template.yaml

python3 - <<'PY'
"""Compares template.yaml with the code: routes, tables, queues, variables, services, purposes, the router."""
import pathlib, re, sys, tomllib

try:
    import yaml
except ImportError:
    sys.exit("template: python3 has no PyYAML (pip install pyyaml)")


class Template(yaml.SafeLoader):
    pass


def tag(loader, suffix, node):
    kinds = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
    value = kinds.get(type(node), loader.construct_mapping)(node)
    return {suffix: value}


Template.add_multi_constructor("!", tag)
template = yaml.load(open("template.yaml"), Template)
resources = template["Resources"]
wrong = []


def same(what, template, code):
    for extra in sorted(template - code):
        wrong.append(f"{what}: {extra} is in the template and not in the code")
    for missing in sorted(code - template):
        wrong.append(f"{what}: {missing} is in the code and not in the template")


def read(path):
    return pathlib.Path(path).read_text()


def code_only(text):
    """Without comments and without what follows the tests."""
    return re.sub(r"//.*", "", text.split("#[cfg(test)]\nmod tests {")[0])


def source(folder):
    """A function's code, without its tests."""
    files = sorted(path for path in (folder / "src").rglob("*.rs") if path.name not in ("main.rs", "tests.rs"))
    return "\n".join(code_only(read(path)) for path in files)


def resource(kind):
    return {name: one for name, one in resources.items() if one["Type"] == kind}


def short(name):
    """`telbuddy-${Stage}-x` as `x`."""
    return name["Sub"].removeprefix("telbuddy-${Stage}-")


def const(text, name):
    found = re.search(rf"\b{name}:[^=]*=\s*(&?\[.*?\]|[^;]*);", text, re.S)
    return found.group(1) if found else None


# The code: functions.
functions = {}
for folder in sorted(pathlib.Path("functions").iterdir()):
    text = source(folder)
    routes = set()
    for method, path in re.findall(r'method:\s*"(\w+)",\s*path:\s*("[^"]+"|\w+)', const(text, "ROUTES") or ""):
        routes.add(f"{method} {(path if path[0] == chr(34) else const(text, path)).strip(chr(34))}")
    needs = const(text, "NEEDS")
    if needs is None:
        wrong.append(f"{folder.name}: no NEEDS")
    queue = re.search(r"QUEUE: Queue = Queue::(\w+)", text)
    site = "&live.site" in read(folder / "src/main.rs")
    functions[folder.name] = {
        "routes": routes,
        "needs": set(re.findall(r"Need::(\w+)", needs or "")),
        "queue": queue and queue.group(1),
        "http": "serve::http" in read(folder / "src/main.rs"),
        "mail": "site.app" in text,
        "fallback": site and re.search(r"\bsite\.(fallback|hook_origins)\b", text) is not None,
        "cookie": site and re.search(r"\bcheck_same_site\b|\bcaller\(|site\.proof\(", text) is not None,
    }

# Tables, queues, index.
keys = code_only(read("shared/src/live/dynamo/keys.rs"))
tables = dict(re.findall(r'Self::(\w+) => "([\w-]+)"', re.search(r"fn name\(self\).*?\n    }", keys, re.S).group()))
ttl = {tables[name] for name in re.findall(r"Self::(\w+)", re.search(r"fn has_ttl.*?\n    }", keys, re.S).group())}
platform = code_only(read("shared/src/platform.rs"))
queues = dict(re.findall(r'Self::(\w+) => "([\w-]+)"', re.search(r"impl Queue \{.*?\n}", platform, re.S).group()))
declared = {short(one["Properties"]["TableName"]): one["Properties"] for one in resource("AWS::DynamoDB::Table").values()}
same("tables", set(declared), set(tables.values()))
same("tables whose items end", {name for name, one in declared.items() if "TimeToLiveSpecification" in one}, ttl)
same("indexes", {i["IndexName"] for one in declared.values() for i in one.get("GlobalSecondaryIndexes", [])},
     {const(keys, name).strip('"') for name in ("DUE_INDEX", "ENTRIES_INDEX")})
for name, one in declared.items():
    recovery = one["PointInTimeRecoverySpecification"]
    days = recovery.get("RecoveryPeriodInDays")
    if not recovery["PointInTimeRecoveryEnabled"] or days != (1 if name == "keys" else None):
        wrong.append(f"table {name}: its backups are not as promised")
    if [(k["AttributeName"], k["KeyType"]) for k in one["KeySchema"]] != [("pk", "HASH"), ("sk", "RANGE")]:
        wrong.append(f"table {name}: its key is not pk, sk")
same("queues", {short(one["Properties"]["QueueName"]) for one in resource("AWS::SQS::Queue").values()},
     {name + dead for name in queues.values() for dead in ("", "-dead")})

# Functions, routes, triggers.
of_name = {short(one["Properties"]["FunctionName"]): one for one in resource("AWS::Serverless::Function").values()}
same("functions", set(of_name), set(functions))
logical = {name: short(one["Properties"]["QueueName"]) for name, one in resource("AWS::SQS::Queue").items()}
tables_of = {name: short(one["Properties"]["TableName"]) for name, one in resource("AWS::DynamoDB::Table").items()}
roles = {short(one["Properties"]["RoleName"]): one for one in resource("AWS::IAM::Role").values()}
same("roles", set(roles), set(functions))
variables = {
    "Tables": {"TABLE_PREFIX"},
    "Keys": {"KMS_KEY", "KMS_KEY_BEFORE", "KEY_CACHE_SECONDS", "KEY_CACHE_ACCOUNTS", "TABLE_PREFIX"},
    "PlatformSecret": {"PLATFORM_SECRET"},
    "Queues": {"QUEUE_URL_PREFIX"}, "Mail": {"MAIL_FROM"}, "Twilio": set(), "Stripe": set(), "Endpoints": set(), "Site": set(),
}
config = read("shared/src/live/config.rs")
names = {name: const(config, name).strip('"') for name in re.findall(r"\w+", const(config, "VARIABLES").strip("[]"))}
always = set(template["Globals"]["Function"]["Environment"]["Variables"])
for name in sorted(set(of_name) & set(functions)):
    code, properties = functions[name], of_name[name]["Properties"]
    events = properties.get("Events", {}).values()
    routes = {f"{e['Properties']['Method']} {e['Properties']['Path']}" for e in events if e["Type"] == "HttpApi"}
    same(f"{name}, routes", routes, code["routes"])
    sources = {logical[e["Properties"]["Queue"]["GetAtt"].split(".")[0]] for e in events if e["Type"] == "SQS"}
    same(f"{name}, queue", sources, {queues[code["queue"]]} if code["queue"] else set())
    ticks = [e for e in events if e["Type"] == "ScheduleV2"]
    if bool(ticks) != (not code["http"] and not code["queue"]):
        wrong.append(f"{name}: has a schedule and should not, or the other way round")
    if of_name[name]["Metadata"]["BuildProperties"]["Binary"] != name:
        wrong.append(f"{name}: is built from another binary")
    own = set(properties.get("Environment", {}).get("Variables", {})) | always
    wanted = {"STAGE", "PUBLIC_URL"}.union(*(variables[need] for need in code["needs"]))
    wanted |= ({"APP_URL"} if code["mail"] else set()) | ({"ALLOWED_ORIGINS"} if code["cookie"] else set())
    wanted |= {"STRIPE_PRICES"} if "live.prices" in read(f"functions/{name}/src/main.rs") else set()
    wanted |= {"FALLBACK_URL"} if code["fallback"] else set()
    wanted |= {"LISTINGS_MINUTES"} if "live.listings" in read(f"functions/{name}/src/main.rs") else set()
    same(f"{name}, variables", own, {names[variable] for variable in wanted})

    # The role: a service for each need and none without.
    statements = [s for p in roles[name]["Properties"]["Policies"] for s in p["PolicyDocument"]["Statement"]]
    actions = {a for s in statements for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
    services = {"dynamodb": "Tables", "kms": "Keys", "secretsmanager": "PlatformSecret", "ses": "Mail"}
    has = {services[a.split(":")[0]] for a in actions if a.split(":")[0] in services}
    has |= {"Queues"} if "sqs:SendMessage" in actions else set()
    same(f"{name}, services", has, code["needs"] - {"Twilio", "Stripe", "Endpoints", "Site"})
    if any("*" in action for action in actions) or any(s["Resource"] == "*" for s in statements):
        wrong.append(f"{name}: its role has a star")
    # Opening a key is written down first.
    notes = any("AccessLogTable" in str(s["Resource"]) and "PutItem" in str(s["Action"]) for s in statements)
    if ("kms:Decrypt" in actions) and not notes:
        wrong.append(f"{name}: may open keys and cannot write it down")

# Tables and their actions: those of the adapters' methods that the handler calls, followed by name through the code.
# (Which action on which table is not told apart.)
FUNCTION = re.compile(r"^( *)(?:pub(?:\([^)]*\))? )?(?:async )?fn (\w+).*?^\1\}", re.S | re.M)
methods, helpers, table_of = {}, {}, {}
for path in sorted(pathlib.Path("shared/src").rglob("*.rs")):
    live, rules = "live" in path.parts, path.name in ("mod.rs", "port.rs", "keep.rs") and len(path.parts) == 4
    if (live or rules) and "testing" not in path.parts:
        text = re.sub(r"^ *fn [^{]*?;\n", "", code_only(read(path)), flags=re.M)  # what a trait only names
        for found in FUNCTION.finditer(text):
            # Adapters' methods by `.name(`, and what handlers call from the rules by `name(`.
            if live and found.group(1):
                methods[found.group(2)] = methods.get(found.group(2), "") + found.group()
            elif rules and "async fn" in found.group()[:40]:
                helpers[found.group(2)] = found.group()
for found in FUNCTION.finditer(keys):
    if not found.group(1) and "Table::" in found.group():
        table_of[found.group(2)] = tables[re.search(r"Table::(\w+)", found.group()).group(1)]
ACTIONS = {
    "GetItem": r"\bget::<", "BatchGetItem": r"\.batch_get\(", "Query": r"\.query\(\)", "PutItem": r"\b(db|self|dynamo)\s*\.put",
    "UpdateItem": r"\b(db|dynamo)\s*\.update|\.update_one\(", "DeleteItem": r"\b(db|dynamo)\s*\.delete|\.delete_item\(",
    "ConditionCheckItem": r"\b(db|dynamo)\s*\.check\(", "Scan": r"\.scan\(\)",
}
# What all adapters share says nothing about one of them.
shared = {"get", "batch_get", "transact", "update", "update_one", "put", "put_new", "delete", "check", "client", "name"}


def called(text, seen, of_rules=True):
    for mark, known in ((r"\.", methods), (r"(?<![.\w])", helpers if of_rules else {})):
        for name in set(re.findall(mark + r"(\w+)\(", text)) & set(known) - seen - shared:
            seen.add(name)
            yield known[name]
            yield from called(known[name], seen, known is helpers)


for name in sorted(set(roles) & set(functions)):
    wanted = set()
    for body in called(source(pathlib.Path("functions") / name), set()):
        actions = {action for action, pattern in ACTIONS.items() if re.search(pattern, body)}
        if actions:
            wanted |= actions | {table_of[key] for key in re.findall(r"keys::(\w+)\(", body) if key in table_of}
            wanted |= {tables[table] for table in re.findall(r"\bTable::(\w+)", body) if table in tables}
    has = set()
    for s in [s for p in roles[name]["Properties"]["Policies"] for s in p["PolicyDocument"]["Statement"]]:
        several = [s["Action"]] if isinstance(s["Action"], str) else s["Action"]
        if several[0].startswith("dynamodb:"):
            has |= {action.removeprefix("dynamodb:") for action in several}
            has |= {tables_of[one] for one in re.findall(r"\w+Table\b", str(s["Resource"]))}
    same(f"{name}, tables and actions", has, wanted)

# Purposes (docs/ARCHITECTURE.md), in the role and again in the key's own policy.
MOVES = {"send", "hook", "payload", "profile", "match"}
purposes = {
    "signup": {"kms:GenerateDataKey": {"profile", "payload", "match"}},
    "credentials": {"kms:GenerateDataKey": {"send", "hook"}},
    "send-sms": {"kms:Decrypt": {"payload", "match"}},
    "messages": {"kms:Decrypt": {"send"}},
    "sender": {"kms:Decrypt": {"send", "payload", "match"}},
    "twilio-webhook": {"kms:Decrypt": {"hook", "match"}},
    "mailer": {"kms:Decrypt": {"profile"}},
    "numbers": {"kms:Decrypt": {"send", "profile"}},
    "opt-outs": {"kms:Decrypt": {"match"}},
    "templates": {"kms:Decrypt": {"payload", "match"}},
    "webhook-endpoints": {"kms:Decrypt": {"profile"}},
    "deliverer": {"kms:Decrypt": {"profile", "send"}},
    "number-watch": {"kms:Decrypt": {"send", "profile"}},
    "catch-up": {"kms:Decrypt": {"send", "match"}},
    "self-test": {"kms:Decrypt": {"hook"}},
    "reconciler": {"kms:Decrypt": {"send"}},
    "settler": {"kms:Decrypt": {"send", "payload"}},
    "key-rotation": {
        "kms:GenerateDataKey": {"send", "hook", "payload", "profile"}, "kms:Decrypt": {"send", "hook", "payload", "profile"},
        "kms:ReEncryptFrom": MOVES, "kms:ReEncryptTo": MOVES,
    },
}
CONTEXT = "kms:EncryptionContext:purpose"


def grants(statements, who):
    found = {}
    for s in statements:
        for action in [s["Action"]] if isinstance(s["Action"], str) else s["Action"]:
            if action.startswith("kms:") and "Condition" in s:
                own = found.setdefault(who(s), {})
                own[action] = own.get(action, set()) | set(s["Condition"]["StringEquals"][CONTEXT])
    return found


in_roles = {}
for name, role in roles.items():
    in_roles |= grants([s for p in role["Properties"]["Policies"] for s in p["PolicyDocument"]["Statement"]], lambda s: name)
# By its alias: it gets another name when data keys move to another KMS key (docs/runbooks/keys.md).
vault = resources[resources["VaultKeyAlias"]["Properties"]["TargetKeyId"]["Ref"]]
vault = vault["Properties"]["KeyPolicy"]["Statement"]
in_key = grants(vault, lambda s: s["Condition"]["ArnEquals"]["aws:PrincipalArn"]["Sub"].split("-${Stage}-")[1])
words = lambda found: {f"{n} {a} {one}" for n, own in found.items() for a, several in own.items() for one in several}
same("purposes in roles", words(in_roles), words(purposes))
same("purposes in the vault's key policy", words(in_key), words(purposes))
before = {
    name: all("VaultKeyBefore" in str(s["Resource"]) for p in role["Properties"]["Policies"]
              for s in p["PolicyDocument"]["Statement"] if "kms:Decrypt" in s["Action"])
    for name, role in roles.items()
}
same("functions that open with the KMS key before, too", {n for n, ok in before.items() if ok}, set(before))
same("functions that need keys", set(purposes), {n for n, f in functions.items() if "Keys" in f["needs"]})

# What goes wrong unseen is lost: dead letters and signed webhooks that were not taken.
alarms = {n: r["Properties"] for n, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
watched = {str(a["Dimensions"][0]["Value"]) for a in alarms.values() if a["Namespace"] == "AWS/SQS"}
dead = {str({"GetAtt": f"{n}.QueueName"}) for n in resources if n.endswith("DeadQueue")}
same("dead letters with an alarm", watched, dead)
runbooks = {a["AlarmDescription"].split(" ")[-1] for a in alarms.values()}
same("runbooks of alarms", runbooks, {path for path in runbooks if pathlib.Path(path).exists()})

# The router of `cargo lambda watch`.
router = tomllib.loads(read("Cargo.toml"))["workspace"]["metadata"]["lambda"]["watch"]["router"]
pairs = set()
for path, function in router.items():
    several = [f["function"] for f in function] if isinstance(function, list) else [function]
    pairs |= {f"{path} of {one}" for one in several}
same("router in Cargo.toml", pairs, {f"{r.split(' ')[1]} of {n}" for n, f in functions.items() for r in f["routes"]})

if wrong:
    sys.exit("template: " + "\ntemplate: ".join(wrong))
routes = sum(len(f["routes"]) for f in functions.values())
print(f"template: {len(functions)} functions, {routes} routes, {len(tables)} tables, {len(queues)} queues as in the code")
PY
