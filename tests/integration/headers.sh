#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# headers.sh ROOT C_COMPILER CXX_COMPILER|- [MPI_INCLUDE_FOLDER…]
# Each public header alone, twice over, as the first thing a C17 and a C++17 file includes, with warnings as errors. And the
# check can fail: a header with a missing include and one that C++ refuses must not pass.
set -euo pipefail

root=$1 cc=$2 cxx=$3
shift 3
flags=(-Wall -Wextra -Werror -pedantic -fsyntax-only)
system=()
for folder in "$@"; do
    system+=(-isystem "$folder")
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

compiles() { # language, include folder, header
    local file
    case "$1" in
        c)
            file=$scratch/alone.c
            printf '#include "%s"\n#include "%s"\nint main(void)\n{\n    return 0;\n}\n' "$3" "$3" >"$file"
            "$cc" -std=c17 "${flags[@]}" "${system[@]}" -I "$2" "$file"
            ;;
        c++)
            file=$scratch/alone.cpp
            printf '#include "%s"\n#include "%s"\nint main()\n{\n    return 0;\n}\n' "$3" "$3" >"$file"
            "$cxx" -std=c++17 "${flags[@]}" "${system[@]}" -I "$2" "$file"
            ;;
    esac
}

languages=(c)
[ "$cxx" = - ] || languages+=(c++)

mkdir -p "$scratch/sherd"
printf 'size_t missing_include(void);\n' >"$scratch/sherd/bad_c.h"
printf 'static inline int *refused(void *p)\n{\n    return p;\n}\n' >"$scratch/sherd/bad_cxx.h"
if compiles c "$scratch" sherd/bad_c.h 2>/dev/null; then
    echo "a header without its include passed: this check proves nothing" >&2
    exit 1
fi
if [ "$cxx" != - ] && compiles c++ "$scratch" sherd/bad_cxx.h 2>/dev/null; then
    echo "a header that is not C++ passed: this check proves nothing" >&2
    exit 1
fi

checked=0 left_out=0
for path in "$root"/include/sherd/*.h; do
    header=sherd/${path##*/}
    if [ "$header" = sherd/sherd_mpi.h ] && [ ${#system[@]} -eq 0 ]; then
        echo "$header: left out, built without MPI"
        left_out=$((left_out + 1))
        continue
    fi
    for language in "${languages[@]}"; do
        compiles "$language" "$root/include" "$header" || {
            echo "$header does not compile alone as $language" >&2
            exit 1
        }
        checked=$((checked + 1))
    done
done
[ "$checked" -gt 0 ] || {
    echo "no public header was found" >&2
    exit 1
}
echo "$checked compilations of headers alone, languages: ${languages[*]}, left out: $left_out"
