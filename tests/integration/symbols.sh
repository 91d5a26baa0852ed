#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# symbols.sh ROOT SHARED_LIBRARY with-mpi|without-mpi with-cuda|without-cuda versioned|unversioned
# What the shared library exports is exactly what the public headers declare with SHERD_API; where the linker knows version maps,
# each name has the library's version.
set -euo pipefail

root=$1 library=$2 mpi=$3 cuda=$4 versions=$5
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

declared_in() { # the names that follow SHERD_API in a header, comments and preprocessor lines left out
    sed -e 's://.*$::' "$1" | tr '\n' '\001' | sed -e 's:/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/: :g' | tr '\001' '\n' |
        sed -e '/^[[:space:]]*#/d' | tr '\n' ' ' | grep -oE 'SHERD_API[^;(]*\(' | grep -oE '[A-Za-z_0-9]+ *\($' |
        tr -d ' ('
}

for path in "$root"/include/sherd/*.h; do
    [ "${path##*/}" = sherd_mpi.h ] && [ "$mpi" = without-mpi ] && continue
    [ "${path##*/}" = sherd_cuda.h ] && [ "$cuda" = without-cuda ] && continue
    declared_in "$path"
done | LC_ALL=C sort -u >"$scratch/declared"
# Linker-made marks (_init, _edata and the like) are not ours to hide.
nm -D --defined-only "$library" | awk '$2 != "A" { print $NF }' >"$scratch/names"
sed -e 's/@.*//' "$scratch/names" |
    grep -vxE '_init|_fini|_edata|_end|__bss_start' | LC_ALL=C sort -u >"$scratch/exported"

known=$(grep -cxE 'sherd_(version|config_init|plan_create|engine_step|comm_destroy)' "$scratch/declared" || true)
if [ "$known" -ne 5 ]; then
    echo "the headers were not read: of five well-known names $known were found" >&2
    exit 1
fi
missing=$(LC_ALL=C comm -23 "$scratch/declared" "$scratch/exported")
extra=$(LC_ALL=C comm -13 "$scratch/declared" "$scratch/exported")
if [ -n "$missing" ]; then
    echo "declared in a public header, but not exported: ${missing//$'\n'/, }" >&2
fi
if [ -n "$extra" ]; then
    echo "exported, but not declared in a public header: ${extra//$'\n'/, }" >&2
fi
[ -z "$missing$extra" ] || exit 1
if [ "$versions" = versioned ]; then
    bare=$(grep -vE '@@SHERD_[0-9]+\.[0-9]+$' "$scratch/names" || true)
    [ -z "$bare" ] || {
        echo "exported without a version: ${bare//$'\n'/, }" >&2
        exit 1
    }
fi
echo "$(wc -l <"$scratch/exported") symbols, all declared, none missing"
