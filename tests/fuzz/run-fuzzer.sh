#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# run-fuzzer.sh FUZZER CORPUS N_TARGETS: runs FUZZER from a copy of CORPUS for its share
# of FUZZ_SECONDS (default 60, over all N_TARGETS). Findings stay in the printed
# directory; without a finding the directory is removed.
set -eu
fuzzer=$1
corpus=$2
n_targets=$3
seconds=$((${FUZZ_SECONDS:-60} / n_targets))
work=$(mktemp -d "${TMPDIR:-/tmp}/qimg-fuzz-XXXXXX")
mkdir "$work/corpus" "$work/found"
if "$fuzzer" -max_total_time=$((seconds > 0 ? seconds : 1)) -rss_limit_mb=512 -timeout=5 \
    -malloc_limit_mb=128 -print_final_stats=1 -artifact_prefix="$work/found/" \
    "$work/corpus" "$corpus"; then
    rm -r "$work"
else
    echo "findings: $work/found" >&2
    exit 1
fi
