#!/usr/bin/env python3
"""Recomputes the export of a statement from docs/statement-export.md alone: no code of TelBuddy, no library.

    .ci/statement.py export.json      0: all of it is as stated; 1: each line says what is not
"""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal, getcontext
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

getcontext().prec = 60
ZERO = Decimal(0)
WORDS = {
    "usage": "{sid}#{kind}",
    "grant": "GRANT#{source}",
    "draw": "DRAW#{revision}",
    "expiry": "EXPIRY#{source}#{revision}",
    "claw_back": "CLAWBACK#{by}",
    "overage": "OVERAGE#{revision}",
    "correction": "CORRECTION#{by}#{sid}#{kind}",
}
USAGE = "sid message_id kind direction format country units credits_micro price_version".split()
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
wrong = []


def check(holds, about, what):
    if not holds:
        wrong.append(f"{about}: {what}")


def time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def millis(text):
    return (time(text) - EPOCH) // timedelta(milliseconds=1)


def canonical(entry):
    parts = ["v1", entry["id"], entry["account_id"], WORDS[entry["occasion"]].format_map(entry)]
    parts += [millis(entry["posted_at"]), entry["month"]]
    parts += [f"{line['book']}={line['amount_micro']}" for line in entry["lines"]]
    usage = entry["usage"]
    if usage is not None:
        parts += ["-" if usage[name] is None else usage[name] for name in USAGE]
        parts += [millis(usage["at"]), usage["day"]]
    return "|".join(map(str, parts))


def mark(entry):
    return int.from_bytes(hashlib.sha256(canonical(entry).encode()).digest()[:12], "big")


def is_mms(usage):
    return (usage["kind"], usage["direction"], usage["format"]) == ("message_segments", "outbound", "mms")


def unit_price(lists, usage):
    """The price of one; None if there is no such list."""
    prices = lists.get(usage["price_version"])
    if prices is None:
        return None
    if usage["kind"] == "message_segments":
        outgoing = "mms_micro" if is_mms(usage) else "sms_segment_micro"
        column = "inbound_micro" if usage["direction"] == "inbound" else outgoing
    else:
        column = {"call_minutes": "call_minute_micro", "ai_replies": "ai_reply_micro"}[usage["kind"]]
    return Decimal(prices[column])


def price(one, usage, units):
    return one * (int(units > 0) if is_mms(usage) else units)


def check_entry(entry, statement, lists):
    about = entry["id"]
    amounts = [Decimal(line["amount_micro"]) for line in entry["lines"]]
    check(amounts and sum(amounts) == 0, about, f"its lines sum to {sum(amounts)}")
    check(entry["account_id"] == statement["account_id"], about, "is of another account")
    check(entry["month"] == statement["month"], about, f"is of the month {entry['month']}")
    year, month = map(int, entry["month"].split("-"))
    start = datetime(year, month, 1, tzinfo=timezone.utc)
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=timezone.utc)
    day = timedelta(days=1)
    check(start - day <= time(entry["posted_at"]) < end + day, about, "was posted in another month")
    check(str(mark(entry)) == entry["mark"], about, "says something else than its mark")
    usage = entry["usage"]
    if entry["occasion"] not in ("usage", "correction"):
        check(usage is None, about, "has work that it should not have")
        return
    check(usage is not None and (usage["sid"], usage["kind"]) == (entry["sid"], entry["kind"]), about, "has other work")
    if usage is None:
        return
    one, units, credits = unit_price(lists, usage), Decimal(usage["units"]), Decimal(usage["credits_micro"])
    if one is None:
        check(False, about, f"there is no price list {usage['price_version']}")
    elif entry["occasion"] == "usage":
        check(credits == price(one, usage, units), about, f"charges {credits}, not {price(one, usage, units)}")
    else:
        fits = credits in (ZERO, one, -one) if is_mms(usage) else credits == one * units
        check(fits, about, f"corrects by {credits} for {units}")
    moved = defaultdict(Decimal)
    for line, amount in zip(entry["lines"], amounts):
        moved[line["book"]] += amount
    own = {"used_" + usage["kind"]} | ({"adjustments"} if entry["occasion"] == "correction" else set())
    check(set(moved) <= own | {"clearing"}, about, "moves other books than its own")
    used = sum((moved[book] for book in own), ZERO)
    check(used == credits and moved["clearing"] == -credits, about, "moves another sum")


def check_corrections(entries, lists):
    of = defaultdict(list)
    for entry in entries:
        if entry["usage"] is not None:
            of[entry["usage"]["sid"], entry["usage"]["kind"]].append(entry)
    for together in of.values():
        charges = [entry["usage"] for entry in together if entry["occasion"] == "usage"]
        if charges and len(together) > 1 and unit_price(lists, charges[0]) is not None:
            units = sum(Decimal(entry["usage"]["units"]) for entry in together)
            credits = sum(Decimal(entry["usage"]["credits_micro"]) for entry in together)
            due = price(unit_price(lists, charges[0]), charges[0], units)
            check(credits == due, together[-1]["id"], f"the charge and its corrections cost {credits}, not {due}")


def shard(entry):
    number = 0
    for character in entry["id"].split("_")[1]:
        number = number * 32 + BASE32.index(character)
    return number % 16


def counted(entries, statement):
    """The entries that the statement counts, or None if no choice fits: all but the last of some shards."""
    missing = sum(map(mark, entries)) - int(statement["digest"])
    number = len(entries) - statement["entries"]
    if statement["state"] == "closed" or (missing == 0 and number == 0):
        return entries
    shards = defaultdict(list)
    for entry in entries:
        if time(entry["posted_at"]) > time(statement["as_of"]) - timedelta(hours=1):
            shards[shard(entry)].append(entry)
    # Every choice up to now, by how many entries it leaves out and what their marks sum to.
    choices = {(0, 0): []}
    for last in shards.values():
        last.sort(key=lambda entry: entry["id"], reverse=True)
        more = dict(choices)
        for (left_out, total), chosen in choices.items():
            for n in range(1, min(len(last), number - left_out) + 1):
                more[left_out + n, total + sum(map(mark, last[:n]))] = chosen + last[:n]
        choices = more
        if len(choices) > 1_000_000:
            return None
    chosen = choices.get((number, missing))
    return None if chosen is None else [entry for entry in entries if entry not in chosen]


def check_state(statement):
    try:
        zone = ZoneInfo(statement["time_zone"])
    except ZoneInfoNotFoundError:
        print(f"this machine does not know {statement['time_zone']}: whether the month is over is not checked")
        return
    year, month = map(int, statement["month"].split("-"))
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=zone).astimezone(timezone.utc)
    over = time(statement["as_of"]) >= end + timedelta(hours=48)
    check(statement["state"] == ("closed" if over else "open"), "statement", f"is said to be {statement['state']}")


def check_sums(entries, statement):
    check(statement["entries"] == len(entries), "statement", f"counts {statement['entries']} of {len(entries)} entries")
    digest = sum(map(mark, entries))
    check(statement["digest"] == str(digest), "statement", f"has another digest than {digest}")
    moved, units = defaultdict(Decimal), defaultdict(Decimal)
    for entry in entries:
        for line in entry["lines"]:
            moved[line["book"]] += Decimal(line["amount_micro"])
        if entry["usage"] is not None:
            units[entry["usage"]["kind"]] += Decimal(entry["usage"]["units"])
    columns = [statement[name + "_micro"] for name in ("opening", "movements", "closing")]
    opening, movements, closing = [defaultdict(Decimal, {k: Decimal(v) for k, v in one.items()}) for one in columns]
    for book in {*moved, *opening, *movements, *closing}:
        check(movements[book] == moved[book], "statement", f"{book} moved by {movements[book]}, not {moved[book]}")
        follows = opening[book] + movements[book]
        check(closing[book] == follows, "statement", f"{book} closes with {closing[book]}, not {follows}")
    check(sum(opening.values()) == 0, "statement", "the books do not open with zero together")
    for kind in {*units, *statement["used_units"]}:
        said = Decimal(statement["used_units"].get(kind, 0))
        check(said == units[kind], "statement", f"{said} units of {kind}, not {units[kind]}")
    left = closing["included"] + closing["purchased"] + closing["clearing"]
    check(Decimal(statement["credits_left_micro"]) == max(left, ZERO), "statement", f"{left} is left")
    check(Decimal(statement["owed_micro"]) == max(-left, ZERO), "statement", f"{-left} is owed")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        export = json.load(file, parse_float=Decimal)
    check(export["format"] == "telbuddy-statement-1", "export", "is of another format")
    statement, entries = export["statement"], export["entries"]
    lists = {one["version"]: one for one in statement["price_lists"]}
    check(len(lists) == len(statement["price_lists"]), "statement", "has a price list twice")
    for what, values in (
        ("id", [entry["id"] for entry in entries]),
        ("occasion", [WORDS[entry["occasion"]].format_map(entry) for entry in entries]),
    ):
        for value, times in Counter(values).items():
            check(times == 1, value, f"this {what} is there {times} times")
    for entry in entries:
        check_entry(entry, statement, lists)
    check_corrections(entries, lists)
    check_state(statement)
    summed = counted(entries, statement)
    check_sums(entries if summed is None else summed, statement)
    if wrong:
        print("\n".join(wrong))
        return 1
    waiting = len(entries) - len(summed)
    print(f"statement.py: {statement['month']}: {len(summed)} entries recomputed, {waiting} not counted yet: as stated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
