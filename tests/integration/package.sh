#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# package.sh BUILD CPACK C_COMPILER [lintian]: makes the Debian packages, checks what they hold and depend on, unpacks them into an empty
# root, runs the command from there and builds a program against the library from there.
set -euo pipefail

build=$(cd "$1" && pwd) cpack=$2 cc=$3 lintian=${4:-}
for tool in "$cpack" dpkg-deb dpkg-shlibdeps gzip file $lintian; do
    command -v "$tool" >/dev/null || {
        echo "$tool is not installed"
        exit 77
    }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

(cd "$build" && "$cpack" -G DEB -B "$scratch/made") >"$scratch/log" 2>&1 || fail "$(cat "$scratch/log")"
cd "$scratch"
holds() { # package, then patterns, each of which must match a path
    local package=$1 paths pattern
    shift
    paths=$(dpkg-deb -c made/"$package"_*.deb | awk '{ print $6 }')
    for pattern in "$@" "/usr/share/doc/$package/copyright" "/usr/share/doc/$package/changelog.Debian.gz"; do
        grep -qE -e "^\.$pattern\$" <<<"$paths" || fail "$package: no $pattern in: $paths"
    done
    # A file is in one package, and nothing lies outside /usr.
    ! grep -vE '^\./usr/' <<<"$paths" || fail "$package has files outside /usr"
    dpkg-deb -c made/"$package"_*.deb | awk '$1 !~ /^d/ { print $6 }' >>all
    ! dpkg-deb -c made/"$package"_*.deb | awk '$2 != "root/root" { bad = 1 } END { exit !bad }' || fail "$package: not root's files"
}
depends() { # package, pattern
    local line
    line=$(dpkg-deb -f made/"$1"_*.deb Depends)
    grep -qE -e "$2" <<<"$line" || fail "$1 depends on '$line', without $2"
}
lib='/usr/lib(/[^/]+)?'
holds libsherd0 "$lib/libsherd\.so\.0" "$lib/libsherd\.so\.0\.[0-9.]+"
holds libsherd-dev "$lib/libsherd\.so" "$lib/libsherd\.a" "$lib/pkgconfig/sherd\.pc" "$lib/cmake/sherd/sherdConfig\.cmake" \
    /usr/include/sherd/sherd.h
holds sherd /usr/bin/sherd '/usr/share/man/man1/sherd\.1\.gz'
[ -z "$(sort all | uniq -d)" ] || fail "in two packages: $(sort all | uniq -d)"
for package in libsherd0 sherd; do
    depends $package '(^|, )libc6 '
    depends $package '(^|, )libjansson4'
done
depends libsherd-dev '(^|, )libsherd0 \(= '

for package in made/*.deb; do
    dpkg-deb -x "$package" tree
done
library=$(dirname "$(find tree -name libsherd.so)")
timeout 60 tree/usr/bin/sherd plan --model tiny --ranks 2 >plan || fail "the unpacked command does not run"
grep -q . plan || fail "the unpacked command prints no plan"
printf '#include <sherd/sherd.h>\n#include <stdio.h>\nint main(void)\n{\n    puts(sherd_version());\n    return 0;\n}\n' >v.c
# shellcheck disable=SC2046
PKG_CONFIG_PATH=$library/pkgconfig "$cc" v.c -o v -I tree/usr/include -L "$library" -lsherd
said=$(LD_LIBRARY_PATH=$library ./v)
[ "sherd $said" = "$(tree/usr/bin/sherd --version)" ] || fail "library '$said', command '$(tree/usr/bin/sherd --version)'"
# Stripped: what is not needed to run stays out of the package.
! file "$library/libsherd.so.0."* | grep -q 'not stripped' || fail "the packaged library has debug information"
if [ -n "$lintian" ]; then
    lintian --allow-root made/*.deb 2>/dev/null >verdict || true
    # This build's prefix may not be /usr, and then libraries lie beside, not in, the architecture's folder.
    errors=$(grep '^E:' verdict | grep -v pkg-config-multi-arch-wrong-dir || true)
    [ -z "$errors" ] || fail "$errors"
fi
echo "$(wc -l <all) files in 3 packages, unpacked and run${lintian:+, no errors by lintian}"
