#!/bin/bash
# Runs the litmus tests in docs/litmus through herd7, and compares each outcome with docs/litmus/expected. herd7 is
# looked for in PATH, or is what HERD7 says; options that it needs to find its library can stand there too.
set -euo pipefail
cd "$(dirname "$0")/../docs/litmus"

herd7=${HERD7:-herd7}
if ! command -v "${herd7%% *}" >/dev/null; then
    echo 'litmus: no herd7 in PATH, and HERD7 does not say where it is' >&2
    exit 1
fi

wrong=0 right=0
while read -r test expected; do
    variant=()
    # Translation tables are memory there, and a fault ends a thread.
    [ "${test%%/*}" = hardware ] && variant=(-variant vmsa,fatal)
    # shellcheck disable=SC2086 # it may have options
    seen=$($herd7 ${variant[@]+"${variant[@]}"} "$test.litmus" | sed -n 's/^Observation [^ ]* \([A-Za-z]*\) .*/\1/p')
    if [ "$seen" = "$expected" ]; then
        right=$((right + 1))
    else
        echo "litmus: $test is expected $expected and was seen ${seen:-not at all}" >&2
        wrong=$((wrong + 1))
    fi
done <expected

listed=$(cut -d' ' -f1 expected | sort)
present=$(find hardware software -name '*.litmus' | sed 's/\.litmus$//' | sort)
if [ "$listed" != "$present" ]; then
    echo 'litmus: what is in docs/litmus and what is in docs/litmus/expected differ' >&2
    wrong=$((wrong + 1))
fi

echo "litmus: $right passed, $wrong failed"
[ "$wrong" -eq 0 ]
