#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# attention_cuda_registers.sh NVCC ROOT CUDA_INCLUDE
# Attention's kernels for heads of 64 and 128 dimensions keep their sums in registers: hundreds of bytes spilled would mean that
# a compiler or a change broke the division of work. A few words are a scheduler's whim, and allowed. A tile of keys twice as
# wide must fail the check.
set -euo pipefail

nvcc=$1 root=$2 include=$3
limit=64

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

spilled() { # spilled FILE: "kernel bytes" a line, the largest first
    "$nvcc" -O3 -std=c++17 -arch=sm_90 -Xptxas -v -I "$root" -I "$root/include" -I "$include" \
        -cubin -o /dev/null "$1" 2>&1 |
        awk '/Compiling entry function/ { match($0, /(forward|keys|queries)ILi[0-9]+/); name = substr($0, RSTART, RLENGTH) }
             /bytes spill stores/ { print name, $5 }' | grep -E 'ILi(64|128) ' | sort -k2 -n -r
}

for file in attention_cuda_forward.cu attention_cuda_backward.cu; do
    found=$(spilled "$root/models/$file")
    echo "$found"
    [ -n "$found" ] || { echo "$file: nvcc names no kernel of 64 or 128 dimensions" >&2; exit 1; }
    if [ "$(head -1 <<<"$found" | cut -d ' ' -f 2)" -gt "$limit" ]; then
        echo "$file: more than $limit bytes of registers are spilled" >&2
        exit 1
    fi
done
sed 's/X(dim, 128, 2, 48)/X(dim, 128, 2, 96)/' "$root/models/attention_cuda_forward.cu" >"$scratch/wide.cu"
if [ "$(spilled "$scratch/wide.cu" | head -1 | cut -d ' ' -f 2)" -le "$limit" ]; then
    echo "tiles of 96 keys should be too wide, and no spilling was found" >&2
    exit 1
fi
