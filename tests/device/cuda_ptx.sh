#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# cuda_ptx.sh NVCC ROOT CUDA_INCLUDE FLAGS…
# What the kernels' PTX may not contain: flush to zero, approximate division, root or reciprocal, floating-point atomics,
# fused operations that nobody wrote. Compiled with the build's own flags, and with wrong ones to see the check fail.
# (PTX, not SASS: SASS spells a correctly rounded root with an estimate and its correction, .FTZ included.)
set -euo pipefail

nvcc=$1 root=$2 include=$3
shift 3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

ptx() { # ptx FILE FLAGS…
    local out=$1
    shift
    "$nvcc" "$@" -arch=compute_80 -ptx -I "$root" -I "$root/include" -I "$include" "$root/device/cuda_kernels.cu" -o "$out"
}
bad='\.ftz|\.approx|div\.full|(atom|red)\.[a-z.]*(add|min|max)[a-z.]*\.(f16|bf16|f32|f64)'

ptx "$scratch/good.ptx" "$@"
if grep -nE "$bad" "$scratch/good.ptx" | head -5 | grep .; then
    echo "the kernels' PTX has inexact or unordered operations" >&2
    exit 1
fi
# AdamW's kernel, by hand: per element 5 fma, 1 division, 1 root (adamw.h); two groups of four elements and the tail.
adamw=$(sed -n '/entry sherd__cuda_kernel_update_adamw/,/^}/p' "$scratch/good.ptx")
for operation in div.rn.f32 sqrt.rn.f32 fma.rn.f32; do
    n=$(grep -c "$operation" <<<"$adamw" || true)
    echo "update_adamw: $n × $operation"
    if [ "$n" -lt 9 ]; then
        echo "update_adamw has too few $operation: it was not read, or is not what it was" >&2
        exit 1
    fi
done
roots=$(grep -c sqrt.rn.f32 <<<"$adamw") fused=$(grep -c fma.rn.f32 <<<"$adamw")
if [ "$fused" -ne $((5 * roots)) ]; then
    echo "update_adamw: $fused fma for $roots elements: 5 each are written" >&2
    exit 1
fi
ptx "$scratch/wrong.ptx" -O3 -std=c++17 -use_fast_math
if ! grep -qE "$bad" "$scratch/wrong.ptx"; then
    echo "with -use_fast_math nothing was found: this check proves nothing" >&2
    exit 1
fi
echo "no .ftz, .approx, div.full or floating-point atomics"
