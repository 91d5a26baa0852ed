#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# manual.sh SHERD TEMPLATE OUT: writes the man page. The line `@COMMANDS@` of the template becomes one section for each command
# with its options, as `SHERD COMMAND --help` prints them; `@VERSION@` is the command's own.
set -euo pipefail

sherd=$1 template=$2 out=$3
export LC_ALL=C.UTF-8 ARGP_HELP_FMT='rmargin=1000'

roff() { # plain text as roff: a backslash, a hyphen, and a dot or quote that begins a line
    sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/"
}

commands=$("$sherd" --help | sed -nE 's/^  ([a-z]+) +[^ ].*/\1/p')
if [ -z "$commands" ]; then
    echo "manual.sh: '$sherd --help' names no commands" >&2
    exit 1
fi

section() { # command
    printf '.SS "sherd %s"\n' "$1"
    "$sherd" "$1" --help | roff | awk '
        NR == 1 { next }
        /^ *(\\-[?a-z], )?\\-\\-/ {
            sub(/^ +/, "")
            split_at = match($0, /  +/)
            print ".TP\n.B " (split_at ? substr($0, 1, split_at - 1) : $0)
            if (split_at)
                print substr($0, split_at + RLENGTH)
            next
        }
        NF { sub(/^ +/, ""); print }'
}

version=$("$sherd" --version)
while IFS= read -r line; do
    if [ "$line" = '@COMMANDS@' ]; then
        for command in $commands; do
            section "$command"
        done
    else
        printf '%s\n' "${line//@VERSION@/$version}"
    fi
done <"$template" >"$out.part"
mv "$out.part" "$out"
