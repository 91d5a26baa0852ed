#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# fuzz.sh CLANG ROOT SMOKE TARGET SECONDS WORKDIR [FLAGS…]
# Builds the parsers with clang, libFuzzer and the address and undefined-behaviour sanitizers, and fuzzes TARGET from the
# seeds that SMOKE writes. Targets may share WORKDIR and run at once: what they have in common is compiled once. The corpus
# stays in WORKDIR/corpus-TARGET for the next run; a finding is left there too and named.
# 77 where this clang has no libFuzzer.
set -euo pipefail

clang=$1 root=$(cd "$2" && pwd) smoke=$(realpath "$3") target=$4 seconds=$5 work=$6
shift 6
mkdir -p "$work"
sanitize=fuzzer,address,undefined

echo 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { (void)d; return n > 1u << 30; }' >"$work/probe-$target.c"
if ! "$clang" -fsanitize=$sanitize "$work/probe-$target.c" -o "$work/probe-$target" 2>"$work/probe-$target.log"; then
    echo "skipped: $clang cannot link libFuzzer (Debian: libclang-rt-dev)"
    exit 77
fi

flags=(-std=c17 -g1 -O1 -D_GNU_SOURCE "-DSHERD_VERSION_STRING=\"fuzz\"" "-I$root" "-I$root/include" "$@"
    -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
newest=$(find "$root/base" "$root/store" "$root/config" "$root/cli" "$root/include" -name '*.h' -printf '%T@\n' | sort -n | tail -1)
sources=("$root"/base/*.c "$root"/config/*.c "$root"/store/{digest,durable,io,manifest,safetensors}*.c)
case $target in
tokens | index) sources=("$root/cli/$target.c" "$root/tests/fuzz/fail.c") ;;
esac
objects=()
exec 9>"$work/lock"
flock 9
for source in "${sources[@]}"; do
    relative=${source#"$root"/}
    object=$work/${relative//\//-}.o
    objects+=("$object")
    if [ ! -e "$object" ] || [ "$source" -nt "$object" ] ||
        awk -v a="$newest" -v b="$(stat -c %Y "$object")" 'BEGIN { exit !(a > b) }'; then
        "$clang" "${flags[@]}" -c "$source" -o "$object.part"
        mv "$object.part" "$object"
    fi
done
exec 9>&-
"$clang" "${flags[@]}" -fsanitize=$sanitize "$root/tests/fuzz/$target.c" "${objects[@]}" -ljansson -lxxhash -lpthread -lm \
    -o "$work/fuzz-$target"

cd "$work"
corpus=$PWD/corpus-$target
mkdir -p "$corpus"
"$smoke" --seeds "$corpus"
set +e # the fuzzer's status is the script's, whatever grep finds
"./fuzz-$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 "-dict=$root/tests/fuzz/$target.dict" -print_final_stats=1 \
    -artifact_prefix="finding-$target-" "$corpus" 2>&1 | tee "fuzz-$target.log" |
    grep -E '^(SUMMARY|==|stat::number_of_executed|artifact_prefix|.*runtime error)|INITED|DONE'
exit "${PIPESTATUS[0]}"
