#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# run-all.sh [STAGE...]: installs the packages that the tests need, builds every variant and
# runs all tests. Stages: gcc asan tsan fuzz nofuse install bigendian (all without arguments).
# --quick: instead, the tests worth five minutes before a commit. The last line is "N passed,
# N failed[, N skipped]", the exit status 1 if anything failed.
#
# Environment: BUILD_ROOT (build-tests), JOBS (the cores), FUZZ_SECONDS (60, for all fuzz
# targets together), QCOWFS_TEST_SEED (random), ALL=1 (all cases of the large matrices; without,
# each suite runs a share of them, chosen by the seed), ASAN_ORACLE, ASAN_MOUNT, TSAN_ORACLE
# and TSAN_MOUNT (pytest -k expressions for the runs with sanitizers), SKIP_INSTALL=1 (do not
# look for packages).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
exec </dev/null

source_root=$PWD
build_root=${BUILD_ROOT:-$source_root/build-tests}
jobs=${JOBS:-$(nproc)}
fuzz_seconds=${FUZZ_SECONDS:-60}
# Of the tests that mount, those with many readers, for ThreadSanitizer.
tsan_mount=${TSAN_MOUNT:-thread or concurren or parallel or many_opens or many_first or many_at_once or replaced_again or signals}
# Under AddressSanitizer all but those that are slow for other reasons than the code's.
asan_mount=${ASAN_MOUNT:-not (write_loop or write_kill or write_fsx or write_space or any_order)}
asan_oracle=${ASAN_ORACLE:-not (test_create and combinations) and not (test_dirty and (clusters-512 or clusters-4k))}
tsan_oracle=${TSAN_ORACLE:-threads and (TestChains or TestZlib or TestZstd or TestRandomImages or test_copy_out) or test_writes and (v3-cs4096 or el2-cs65536 or zlib-cs4096 or raw-base-odd or snapshots or qed-empty or qed-raw-base-long)}
# Of the tests that mount, those worth their time before each commit.
quick_mount=${QUICK_MOUNT:-not (loop or fsx or kill or space)}
all_stages=(gcc asan tsan fuzz nofuse install bigendian)
export QCOWFS_TEST_SEED=${QCOWFS_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
export PYTHONDONTWRITEBYTECODE=1
export PATH=$PATH:/usr/sbin:/sbin
results=$build_root/results
# The one with Debian's pytest; another may come first in the PATH.
python=/usr/bin/python3
"$python" -c 'import pytest' 2>/dev/null || python=python3

# ---- counting ---------------------------------------------------------------------------

# Adds "PASSED FAILED SKIPPED" of a step to the results, with its duration.
add_result() { # label, seconds, "P F S", log
    local passed failed skipped
    read -r passed failed skipped <<<"$3"
    echo "$passed $failed $skipped $1" >>"$results"
    printf '  %-28s %5s passed %3s failed %4s skipped %5ss\n' \
        "$1" "$passed" "$failed" "$skipped" "$2"
    if [ "$failed" -gt 0 ] && [ -s "${4-}" ]; then
        echo "    ---- end of ${4#"$source_root/"}"
        tail -n 40 "$4" | cut -c1-300 | sed 's/^/    /'
    fi
}

# Runs one command that passes, fails, or is skipped (77), as one test.
check() { # label, log, command...
    local label=$1 log=$2 start=$SECONDS status=0
    shift 2
    "$@" >"$log" 2>&1 || status=$?
    case $status in
    0) add_result "$label" $((SECONDS - start)) "1 0 0" "$log" ;;
    77) add_result "$label" $((SECONDS - start)) "0 0 1" "$log" ;;
    *) add_result "$label" $((SECONDS - start)) "0 1 0" "$log" ;;
    esac
    return "$status"
}

# ---- building ---------------------------------------------------------------------------

# Configures (once) and builds a variant with its tests. A failure counts as a failed test;
# a success counts nothing.
build() { # name, meson options...
    build_targets "all meson-test-prereq" "$@"
}

# Builds the targets, and of the tests those of the suites: "all +unit" are the programs and the
# unit tests.
build_targets() { # targets and +suites, name, meson options...
    local wanted=$1 dir=$build_root/$2 log=$build_root/$2.build.log start=$SECONDS targets
    shift 2
    # Optimized and with debugging information: a debug build is too slow for the
    # sanitizers, a release build lacks the lock checks.
    # shellcheck disable=SC2086 # wanted and targets are lists
    if ! { { [ -e "$dir/build.ninja" ] ||
             meson setup "$dir" --buildtype=debugoptimized -Dwerror=true "$@"; } &&
           targets=$(tests/list-targets.py "$dir" $wanted) &&
           ninja -C "$dir" -j "$jobs" $targets; } >"$log" 2>&1; then
        add_result "${dir##*/}: build" $((SECONDS - start)) "0 1 0" "$log"
        return 1
    fi
    echo "  ${dir##*/}: built in $((SECONDS - start))s"
}

# ---- running ----------------------------------------------------------------------------

# The meson tests of one or more suites, counted by their cases.
meson_suites() { # name, timeout factor, suite...
    local dir=$build_root/$1 factor=$2 base status=0 start=$SECONDS suite
    local log=$build_root/$1.meson.log options=()
    shift 2
    for suite; do options+=(--suite "$suite"); done
    base=$dir/meson-logs/$(IFS=-; echo "$*")
    rm -f "$base.json" "$base.junit.xml"
    meson test -C "$dir" --no-rebuild --num-processes "$jobs" --timeout-multiplier "$factor" \
        --logbase "${base##*/}" --quiet --print-errorlogs "${options[@]}" >"$log" 2>&1 || status=$?
    add_result "${dir##*/}: $*" $((SECONDS - start)) \
        "$("$source_root/tests/count-results.py" meson "$base" "$status")" "$log"
}

# A directory of pytest tests, on the programs of a variant: that share of its cases.
# A share "0.1/0.5" is that of cases and that of tests without cases.
pytest_suite() { # name, suite, share, pytest options...
    local dir=$build_root/$1 suite=$2 share=$3 status=0 start=$SECONDS
    local log=$build_root/$1.$2.log junit=$build_root/$1.$2.junit.xml parallel=()
    shift 3
    [ "${ALL-}" != 1 ] || share=1
    # Classes share a mount, so one process runs all tests of a class.
    if [ "$jobs" -gt 1 ] && "$python" -c 'import xdist' 2>/dev/null; then
        parallel=(-n "$jobs" --dist loadscope)
    fi
    rm -f "$junit"
    QCOWFS=$dir/fuse/qcowfs QIMG=$dir/tools/qimg QCOWFS_TEST_SHARE=$share \
        timeout -k 30 1200 "$python" -m pytest -p no:cacheprovider -q -rs --tb=short \
        --junitxml="$junit" "${parallel[@]}" "$@" "tests/$suite" >"$log" 2>&1 || status=$?
    add_result "${dir##*/}: $suite" $((SECONDS - start)) \
        "$("$source_root/tests/count-results.py" junit "$junit" "$status")" "$log"
}

# Sanitizers write here: a server in the background has no reader for its messages.
collect_reports() { # name
    local dir=$build_root/$1.reports log=$build_root/$1.reports.log n
    n=$(find "$dir" -type f -size +0 | wc -l)
    find "$dir" -type f -size +0 -exec head -n 40 {} + >"$log"
    if [ "$n" -gt 0 ]; then
        add_result "$1: $n reports" 0 "0 1 0" "$log"
    else
        add_result "$1: 0 reports" 0 "1 0 0"
    fi
}

# ---- stages -----------------------------------------------------------------------------

stage_gcc() {
    build gcc || return
    CRASH_ONE_IN=${CRASH_ONE_IN:-7} meson_suites gcc 1 unit fuzz stress crash lint
    pytest_suite gcc oracle 0.12
    pytest_suite gcc mount 0.15
    pytest_suite gcc packaging 1
    check "gcc: bench --quick" "$build_root/gcc.bench.log" \
        tests/bench/run-bench.py --quick --contenders raw,ceiling,qcowfs,qemu \
        --qcowfs "$build_root/gcc/fuse/qcowfs" --tools "$build_root/gcc/tests/bench"
}

stage_asan() {
    local dir=$build_root/asan.reports
    rm -rf "$dir" && mkdir -p "$dir"
    build asan -Db_sanitize=address,undefined -Db_lundef=false || return
    export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:abort_on_error=1:detect_stack_use_after_return=1:log_path=$dir/asan
    export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1:log_path=$dir/ubsan
    export G_SLICE=always-malloc CRASH_TRIES=${CRASH_TRIES:-2} CRASH_ONE_IN=${CRASH_ONE_IN:-18}
    export QCOWFS_TEST_WRITE_OPS=${QCOWFS_TEST_WRITE_OPS:-120}
    meson_suites asan 5 unit fuzz stress crash
    pytest_suite asan oracle 0.05/0.4 -k "$asan_oracle"
    pytest_suite asan mount 0.08/0.4 -k "$asan_mount"
    collect_reports asan
    unset ASAN_OPTIONS UBSAN_OPTIONS G_SLICE CRASH_TRIES CRASH_ONE_IN QCOWFS_TEST_WRITE_OPS
}

stage_tsan() {
    local dir=$build_root/tsan.reports
    rm -rf "$dir" && mkdir -p "$dir"
    build_targets "all +unit +stress" tsan -Db_sanitize=thread -Db_lundef=false || return
    export TSAN_OPTIONS=allocator_may_return_null=1:halt_on_error=0:second_deadlock_stack=1:log_path=$dir/tsan
    # GLib's own allocator hands memory from thread to thread by locks that are not seen.
    export G_SLICE=always-malloc
    meson_suites tsan 10 unit stress
    pytest_suite tsan oracle 0.3 -k "$tsan_oracle"
    pytest_suite tsan mount 1 -k "$tsan_mount"
    collect_reports tsan
    unset TSAN_OPTIONS G_SLICE
}

# The targets by libFuzzer, each for its share of FUZZ_SECONDS.
stage_fuzz() {
    CC=clang build_targets "+libfuzzer" fuzz -Dfuzzers=true || return
    FUZZ_SECONDS=$fuzz_seconds meson_suites fuzz 1 libfuzzer
}

# The library must build without FUSE; and a build that cannot mount must be requested
# explicitly.
stage_nofuse() {
    local libdir=$build_root/pkgconfig-without-fuse3 path file
    rm -rf "$libdir" && mkdir -p "$libdir"
    IFS=: read -ra path <<<"$(pkg-config --variable pc_path pkg-config)"
    for dir in "${path[@]}"; do
        for file in "$dir"/*.pc; do
            [ -e "$file" ] && [ "${file##*/}" != fuse3.pc ] && ln -sf "$file" "$libdir/"
        done
    done
    rm -rf "$build_root/nofuse" "$build_root/without-fuse3"
    export PKG_CONFIG_LIBDIR=$libdir
    if build_targets all nofuse -Dfuse=disabled; then
        check "nofuse: no qcowfs was built" "$build_root/nofuse.programs.log" \
            test ! -e "$build_root/nofuse/fuse/qcowfs"
        check "nofuse: qimg works" "$build_root/nofuse.qimg.log" \
            run_qimg "$build_root/nofuse/tools/qimg" "$build_root/nofuse.work"
        check "nofuse: refused unasked" "$build_root/without-fuse3.log" \
            refuses_without_fuse "$build_root/without-fuse3"
    fi
    unset PKG_CONFIG_LIBDIR
}

# The tool reads its own output.
run_qimg() { # qimg, directory
    local qimg=$1 work=$2
    rm -rf "$work" && mkdir -p "$work"
    head -c 300000 /dev/urandom >"$work/disk.raw"
    truncate -s 1M "$work/disk.raw"
    "$qimg" create -f qcow2 -b disk.raw -F raw "$work/disk.qcow2" &&
        "$qimg" check "$work/disk.qcow2" &&
        "$qimg" copy-out "$work/disk.qcow2" "$work/copy.raw" &&
        cmp "$work/disk.raw" "$work/copy.raw"
}

refuses_without_fuse() {
    local output
    if output=$(meson setup "$1" 2>&1); then
        echo "$output"
        echo "it was configured, without fuse3 and without -Dfuse=disabled"
        return 1
    fi
    echo "$output"
    grep -q 'ERROR.*fuse3' <<<"$output"
}

# The files of a package, and the example program against them.
stage_install() {
    local dest=$build_root/install.dest
    rm -rf "$dest"
    build gcc --buildtype=debugoptimized || return
    check "install: files" "$build_root/install.log" install_files "$dest" || return
    check "install: example, shared" "$build_root/install.shared.log" run_example "$dest" shared
    check "install: example, static" "$build_root/install.static.log" run_example "$dest" static
    check "install: subproject" "$build_root/install.subproject.log" build_superproject
}

install_files() {
    local file missing=0 libdir
    DESTDIR=$1 meson install -C "$build_root/gcc" --no-rebuild || return 1
    libdir=$(dirname "$(find "$1" -name libqimg.so)")
    for file in bin/qcowfs bin/qimg include/qimg.h share/man/man1/qcowfs.1 \
        share/man/man1/qimg.1 share/man/man1/qimg-check.1 share/man/man3/libqimg.3 \
        share/man/man7/qcow2.7 bash-completion/completions/qcowfs \
        zsh/site-functions/_qimg fish/vendor_completions.d/qimg.fish; do
        [ -n "$(find "$1" -path "*/$file")" ] || { echo "missing: $file"; missing=1; }
    done
    for file in libqimg.so.0 libqimg.a pkgconfig/qimg.pc; do
        [ -e "$libdir/$file" ] || { echo "missing: $libdir/$file"; missing=1; }
    done
    "$(find "$1" -path '*/bin/qcowfs')" --version || return 1
    return "$missing"
}

# Compiles docs/examples/qimg-digest.c by pkg-config alone and compares its output with
# the truth.
run_example() {
    local dest=$1 kind=$2 work=$build_root/install.$2 static=() libdir expected got
    rm -rf "$work" && mkdir -p "$work"
    libdir=$(dirname "$(find "$dest" -name libqimg.so)")
    # The prefix as it is in the staging directory.
    sed "s|^prefix=.*|prefix=$(dirname "$(dirname "$(find "$dest" -name qimg.h)")")|" \
        "$libdir/pkgconfig/qimg.pc" >"$work/qimg.pc"
    [ "$kind" = shared ] || static=(--static)
    local flags
    flags=$(PKG_CONFIG_PATH=$work pkg-config "${static[@]}" --cflags --libs qimg) || return 1
    # Statically, for libqimg alone.
    [ "$kind" = shared ] || flags=${flags//-lqimg/-l:libqimg.a}
    echo "flags: $flags"
    # shellcheck disable=SC2086 # a list of flags
    cc -Wall -Wextra -Werror -o "$work/example" docs/examples/qimg-digest.c $flags || return 1
    head -c 3000000 /dev/urandom >"$work/disk.raw"
    truncate -s 5M "$work/disk.raw"
    expected="5242880 $(sha256sum <"$work/disk.raw" | cut -d' ' -f1)"
    got=$(LD_LIBRARY_PATH=$libdir "$work/example" "$work/disk.raw") || return 1
    [ "$got" = "$expected" ] || { echo "got $got, expected $expected"; return 1; }
    command -v qemu-img >/dev/null || return 0
    qemu-img convert -c -O qcow2 "$work/disk.raw" "$work/disk.qcow2" || return 1
    got=$(LD_LIBRARY_PATH=$libdir "$work/example" "$work/disk.qcow2") || return 1
    [ "$got" = "$expected" ] || { echo "got $got, expected $expected"; return 1; }
}

# The unit tests and the corpora on a machine of the other byte order: s390x, by Debian's
# cross compiler and qemu-user.
stage_bigendian() {
    local sysroot=$build_root/s390x.sysroot
    check "s390x: libraries" "$build_root/s390x.sysroot.log" prepare_s390x "$sysroot" || return
    printf "[constants]\nsysroot = '%s'\n" "$sysroot" >"$sysroot.ini"
    build_targets "+unit +fuzz" s390x -Dfuse=disabled \
        --cross-file "$sysroot.ini" --cross-file tests/support/s390x.ini || return
    meson_suites s390x 5 unit fuzz
}

prepare_s390x() {
    local tool
    for tool in s390x-linux-gnu-gcc qemu-s390x; do
        command -v "$tool" || { echo "there is no $tool"; return 77; }
    done
    tests/support/foreign-packages.sh s390x "$1"
}

# The tests before each commit: no stage of the whole run.
stage_quick() {
    build_targets "all +unit" gcc || return
    meson_suites gcc 1 unit lint
    # Half of all tests, other ones for each seed, and few cases of the matrices.
    pytest_suite gcc oracle 0.02/0.5
    pytest_suite gcc mount 0.05/0.5 -k "$quick_mount"
}

# A project that has this one as its subproject, and asks for its library as for any other.
build_superproject() {
    local project=$build_root/superproject
    rm -rf "$project" && mkdir -p "$project/subprojects"
    ln -s "$source_root" "$project/subprojects/qcowfs"
    cp docs/examples/qimg-digest.c "$project/"
    cat >"$project/meson.build" <<'END'
project('super', 'c', default_options: ['c_std=gnu11'])
qimg = dependency('qimg', version: '>=0.1', fallback: 'qcowfs', default_options: ['fuse=disabled'])
executable('digest', 'qimg-digest.c', dependencies: qimg)
END
    meson setup "$project/build" "$project" --buildtype=debug --force-fallback-for=qimg &&
        ninja -C "$project/build" -j "$jobs" digest || return 1
    truncate -s 1M "$project/disk.raw"
    [ "$("$project/build/digest" "$project/disk.raw")" = \
        "1048576 $(sha256sum <"$project/disk.raw" | cut -d' ' -f1)" ]
}

# ---- all --------------------------------------------------------------------------------

usage() {
    cat <<END
usage: tests/run-all.sh [--quick | STAGE...]

Builds the variants and runs their tests; the last line says how many passed.
  --quick   what is worth five minutes before a commit: unit tests, lint, and a share of
            the tests that read images and mount
  STAGE...  these stages alone, of: ${all_stages[*]}
The head of the script lists the environment variables.
END
}

stages=()
while [ $# -gt 0 ]; do
    case $1 in
    --quick) stages+=(quick) ;;
    --help) usage; exit 0 ;;
    *)
        if [[ " ${all_stages[*]} " != *" $1 "* ]]; then
            usage >&2
            echo "run-all.sh: there is no stage or option $1" >&2
            exit 2
        fi
        stages+=("$1")
        ;;
    esac
    shift
done
if [[ " ${stages[*]-} " == *" quick "* ]] && [ "${#stages[@]}" -gt 1 ]; then
    echo "run-all.sh: --quick is a run of its own, without stages" >&2
    exit 2
fi
[ "${#stages[@]}" -gt 0 ] || stages=("${all_stages[@]}")

if [ "${SKIP_INSTALL-}" != 1 ]; then
    packaging/install-packages.sh build run package test || {
        echo "0 passed, 1 failed"
        exit 1
    }
fi
mkdir -p "$build_root"
: >"$results"
echo "QCOWFS_TEST_SEED=$QCOWFS_TEST_SEED, logs in ${build_root#"$source_root/"}"
for stage in "${stages[@]}"; do
    start=$SECONDS
    echo "== $stage"
    "stage_$stage"
    echo "== $stage took $((SECONDS - start))s"
done
tests/count-results.py total "$results"
