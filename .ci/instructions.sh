#!/usr/bin/env bash
# CPU instructions per webhook, believed and forged, beside a bare HMAC-SHA1 of the same bytes; fails above a ceiling.
#
#   .ci/instructions.sh       needs valgrind (apt-get install valgrind)
#
# Each case of the bench `webhook` runs 100 and 1,100 times under callgrind: what is between the two is a thousand of
# it, without start-up. Valgrind shows programs no SHA extensions, so every SHA-1 here is one without them, and aws-lc is
# kept from AVX: the counts are the same on each x86-64 machine, give or take what libc chooses for copying.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "instructions: needs valgrind (apt-get install valgrind)" >&2; exit 1; }

# Instructions for a webhook, and how many bare HMACs and how many believed ones that may be. Measured figures are in
# docs/performance.md; the ceilings leave a fifth for compilers and machines.
MOST_INSTRUCTIONS=100000 MOST_IN_BARE=8.5 MOST_REFUSED=1.05 MOST_REFUSED_AT_TWO=2.1

bench=$(cargo bench -p telbuddy --bench webhook --locked --no-run --message-format=json |
  sed -n 's|.*"executable":"\([^"]*/webhook-[0-9a-f]*\)".*|\1|p')
[ -x "$bench" ] || { echo "instructions: the bench was not built" >&2; exit 1; }

# Without AVX, without AVX2 and BMI.
export OPENSSL_ia32cap="~0x1000000000000000:~0x128"
run() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" --only "$1" "$2" 2>&1 |
    sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}
each() { echo $((($(run "$1" 1100) - $(run "$1" 100)) / 1000)); }

awk -v believed="$(each believed)" -v refused="$(each refused)" -v two="$(each refused-at-two-hosts)" \
  -v bare="$(each bare)" -v ours="$(each bare-of-ours)" -v most="$MOST_INSTRUCTIONS" -v in_bare="$MOST_IN_BARE" \
  -v most_refused="$MOST_REFUSED" -v most_two="$MOST_REFUSED_AT_TWO" '
  function row(name, n) { printf "%-52s %7d %6.2f\n", name, n, n / bare }
  function hold(what, is, limit) {
    if (!(is > 0 && is <= limit)) { printf "instructions: %s is %s, at most %s\n", what, is, limit; failed = 1 }
  }
  BEGIN {
    printf "%-52s %7s %6s\n", "a text'"'"'s webhook, 19 parameters, 526 bytes signed", "instr.", "bare"
    row("bare HMAC-SHA1, aws-lc", bare)
    row("bare HMAC-SHA1, the crates that the check is made of", ours)
    row("believed", believed)
    row("refused", refused)
    row("refused where a second host is configured", two)
    hold("a believed webhook", believed, most)
    hold("a believed webhook, in bare HMAC-SHA1,", believed / bare, in_bare)
    hold("a refused webhook, in believed ones,", refused / believed, most_refused)
    hold("a refused one with a second host, in believed ones,", two / believed, most_two)
    exit failed
  }'
