#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# embed.sh ROOT BUILD C_COMPILER: what a stranger does with the library. Installs into an empty folder, takes the first C
# example out of README.md, builds it there against the installed files with what pkg-config says, shared and static, in no
# sight of the source tree, runs both and compares with the output that the README promises (the block after it).
set -euo pipefail

root=$(cd "$1" && pwd) build=$(cd "$2" && pwd) cc=$3
command -v pkg-config >/dev/null || {
    echo "pkg-config is not installed"
    exit 77
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

block() { # the first fenced block of that language in the README
    awk -v fence="\`\`\`$1" '$0 == fence && !seen { inside = seen = 1; next } inside && /^```$/ { exit } inside' \
        "$root/README.md"
}
block c >"$scratch/embed.c"
block output >"$scratch/promised"
for file in embed.c promised; do
    [ -s "$scratch/$file" ] || {
        echo "README.md has no block for $file" >&2
        exit 1
    }
done
lines=$(wc -l <"$scratch/embed.c")
echo "the README's example: $lines lines"

cmake --install "$build" --prefix "$scratch/usr" >"$scratch/install.log" || {
    cat "$scratch/install.log" >&2
    exit 1
}
library=$(dirname "$(find "$scratch/usr" -name libsherd.a)")
export PKG_CONFIG_PATH=$library/pkgconfig
strict=(-std=c17 -Wall -Wextra -Werror -pedantic -O1)
cd "$scratch"
# Words of pkg-config's answer are separate arguments.
# shellcheck disable=SC2046
"$cc" "${strict[@]}" embed.c -o shared $(pkg-config --cflags --libs sherd)
# shellcheck disable=SC2046
"$cc" "${strict[@]}" embed.c -o static $(pkg-config --cflags sherd) "$library/libsherd.a" \
    $(pkg-config --static --libs sherd | sed -e 's/-lsherd\b//')
for how in shared static; do
    LD_LIBRARY_PATH=$library timeout 60 "./$how" >"$how.out"
    diff -u promised "$how.out" || {
        echo "the $how program does not print what README.md promises" >&2
        exit 1
    }
done
echo "installed, compiled and run: shared and static"
