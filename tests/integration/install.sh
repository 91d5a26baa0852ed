#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# install.sh ROOT BUILD C_COMPILER CXX_COMPILER: installs into an empty folder, moves that folder, and builds strangers' programs
# against it, by the CMake package and by pkg-config, shared and static: the programs of examples/ as they stand and one in C++.
# All are run and must print what the build tree's own print. Nothing installed may name the source or the build folder.
set -euo pipefail

root=$(cd "$1" && pwd) build=$(cd "$2" && pwd) cc=$3 cxx=$4
for tool in cmake pkg-config objcopy "$cxx"; do
    command -v "$tool" >/dev/null || {
        echo "$tool is not installed"
        exit 77
    }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/moved/to/prefix

fail() {
    echo "$*" >&2
    exit 1
}

cmake --install "$build" --prefix "$scratch/first" >"$scratch/install.log" || fail "$(cat "$scratch/install.log")"
mkdir -p "${prefix%/*}"
mv "$scratch/first" "$prefix"
library=$(dirname "$(find "$prefix" -name libsherd.a)")
for name in bin/sherd include/sherd/sherd.h share/man/man1/sherd.1; do
    [ -s "$prefix/$name" ] || fail "$name was not installed"
done

# Debug information names its sources, as it should; nothing else may.
names_us() { # folder
    grep -rlF -e "$root" -e "$build" -e "$scratch/first" "$1" || true
}
cp -a "$prefix" "$scratch/bare"
find "$scratch/bare" -type f \( -name '*.a' -o -name '*.so*' -o -path '*/bin/*' \) -exec objcopy --strip-debug {} \;
named=$(names_us "$scratch/bare")
[ -z "$named" ] || fail "these name the source, build or first folder: ${named//$scratch\/bare\//}"
# And the search can fail.
echo "prefix=$build/x" >"$scratch/bare/planted"
[ "$(names_us "$scratch/bare")" = "$scratch/bare/planted" ] || fail "the search for the build folder finds nothing"

mkdir -p "$scratch/copy" "$scratch/by-cmake" "$scratch/by-hand"
cp -r "$root/tests/integration/consumer" "$scratch/copy/consumer"
cp -r "$root/examples" "$scratch/copy/examples"
awk '$0 == "```output" && !seen { inside = seen = 1; next } inside && /^```$/ { exit } inside' "$root/README.md" \
    >"$scratch/cxx.promised"
examples=()
declare -A compiler=()
for source in "$root"/examples/*.c; do
    name=$(basename "$source" .c)
    if grep -q 'include .*nccl\.h' "$source"; then
        rm "$scratch/copy/examples/$name.c"
        echo "$name is left out: it needs NCCL and a GPU"
        continue
    fi
    # Those with MPI are in the build tree if MPI is; by hand they are MPI's own compiler's to build.
    if grep -q 'include .*mpi\.h' "$source"; then
        [ -x "$build/examples/$name" ] && command -v mpicc >/dev/null || {
            rm "$scratch/copy/examples/$name.c"
            echo "$name is left out: it needs MPI"
            continue
        }
        compiler[$name]=mpicc
    fi
    examples+=("$name")
    "$build/examples/$name" >"$scratch/$name.promised"
done
[ ${#examples[@]} -gt 1 ] && [ -s "$scratch/cxx.promised" ] || fail "the examples were not found"

env -u PKG_CONFIG_PATH CC="$cc" CXX="$cxx" cmake -S "$scratch/copy/consumer" -B "$scratch/by-cmake" -DCMAKE_PREFIX_PATH="$prefix" \
    -DEXAMPLES="$scratch/copy" -DCMAKE_BUILD_TYPE=Debug >"$scratch/log" 2>&1 &&
    cmake --build "$scratch/by-cmake" --parallel 2 >>"$scratch/log" 2>&1 || fail "$(cat "$scratch/log")"

export PKG_CONFIG_PATH=$library/pkgconfig
cd "$scratch/by-hand"
# Words of pkg-config's answer are separate arguments.
# shellcheck disable=SC2046
compile() { # linkage, out, compiler, arguments…
    local linkage=$1 out=$2
    shift 2
    if [ "$linkage" = sherd ]; then
        "$@" -o "$out" $(pkg-config --cflags --libs sherd) -pthread -lm
    else
        "$@" -o "$out" $(pkg-config --cflags sherd) "$library/libsherd.a" $(pkg-config --static --libs sherd | sed -e 's/-lsherd\b//')
    fi
}
for linkage in sherd sherd_static; do
    compile $linkage cxx_$linkage "$cxx" -std=c++17 -Wall -Wextra -Werror "$scratch/copy/consumer/consumer.cpp"
    for name in "${examples[@]}"; do
        compile $linkage "${name}_$linkage" "${compiler[$name]:-$cc}" -std=c17 -Wall -Wextra -Werror -I "$scratch/copy" "$scratch/copy/examples/$name.c"
    done
done

runs=0
for folder in by-cmake by-hand; do
    for linkage in sherd sherd_static; do
        for name in cxx "${examples[@]}"; do
            program=$scratch/$folder/${name}_$linkage
            LD_LIBRARY_PATH=$library timeout 60 "$program" >"$scratch/out" || fail "$folder: ${name}_$linkage ends with $?"
            diff -u "$scratch/$name.promised" "$scratch/out" || fail "$folder: ${name}_$linkage prints something else"
            runs=$((runs + 1))
        done
    done
done
needs=$(objdump -p "$scratch/by-hand/cxx_sherd" | awk '$1 == "NEEDED" { print $2 }')
grep -qx 'libsherd.so.0' <<<"$needs" || fail "the shared program needs ${needs//$'\n'/, }, not libsherd.so.0"
! objdump -p "$scratch/by-hand/cxx_sherd_static" | grep -q 'NEEDED.*libsherd' || fail "the static program needs libsherd.so"

timeout 60 "$prefix/bin/sherd" plan --model tiny --ranks 2 >"$scratch/plan" || fail "the installed command does not run"
grep -q . "$scratch/plan" || fail "the installed command prints no plan"
if command -v man >/dev/null; then
    warnings=$(MANROFFSEQ='' man -l --warnings "$prefix/share/man/man1/sherd.1" 2>&1 >"$scratch/page")
    [ -z "$warnings" ] || fail "man warns: $warnings"
    grep -q -e '--resume' "$scratch/page" || fail "the manual page does not have the options"
fi
echo "installed, moved, $runs programs built against it and run"
