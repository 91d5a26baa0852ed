#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# cuda_sass.sh NVCC ROOT CUDA_INCLUDE FLAGS…
# What the kernels' machine code may not contain. Flushes to zero (.FTZ) and estimates (MUFU) stand only inside correctly
# rounded divisions and roots, so: none at all in kernels that have neither; elsewhere no flushing fma, no estimate but
# the reciprocal and the reciprocal root, and each of those with the fma that refine it. No floating-point atomics. And
# what it must contain: accesses of 16 bytes, the loads among them first to leave the caches.
# Ends with 77 where there is neither nvdisasm nor a cuobjdump that works.
set -euo pipefail

nvcc=$1 root=$2 include=$3
shift 3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

beside=$(dirname "$(readlink -f "$nvcc")")
PATH=$PATH:$beside:/usr/local/cuda/bin
for fetched in "$root"/build/cuda-{toolkit,disassembler}/lib/python3*/site-packages/nvidia/cu13/bin; do # scripts/cuda-toolkit
    PATH=$PATH:$fetched
done

sass() { # sass FILE FLAGS…
    local out=$1
    shift
    "$nvcc" "$@" -arch=sm_90 -cubin -I "$root" -I "$root/include" -I "$include" "$root/device/cuda_kernels.cu" -o "$out.cubin"
    nvdisasm -c "$out.cubin" >"$out" 2>/dev/null || cuobjdump -sass "$out.cubin" >"$out" 2>/dev/null || {
        echo "neither nvdisasm nor a working cuobjdump: the machine code is not looked at (skipped)"
        exit 77
    }
}
function_of() { # function_of FILE NAME: its lines, helpers of its section included
    awk -v name="$2" '/\t\.section/ { on = index($0, ".text." name ",") } /Function :/ { on = $NF == name } on' "$1"
}
failed=0
complain() {
    echo "$1" >&2
    failed=1
}

sass "$scratch/good" "$@"
exact="zero convert narrow reduce update_sgd update_muon_direct update_muon_apply norm"
for product in gram mix step; do exact="$exact product_${product}_4 product_${product}_8"; done
for sources in 1 2 4 8 n; do exact="$exact sum_${sources}_f32 sum_${sources}_bf16"; done
for kernel in $exact; do
    function_of "$scratch/good" "sherd__cuda_kernel_$kernel" >"$scratch/one"
    [ "$(wc -l <"$scratch/one")" -gt 20 ] || complain "$kernel: no machine code was found"
    reciprocals=$(grep -c 'MUFU\.RCP ' "$scratch/one" || true)
    integers=$(grep -cE 'F2I(\.FTZ)?\.U(32|64)\.TRUNC' "$scratch/one" || true)
    others=$(grep -nE '\.FTZ|MUFU' "$scratch/one" | grep -vE 'MUFU\.RCP |F2I\.FTZ\.U32\.TRUNC' || true)
    if [ -n "$others" ] || [ "$reciprocals" -ne "$integers" ]; then
        complain "$kernel flushes or estimates: $reciprocals reciprocals, $integers of them for integers; ${others:0:300}"
    fi
done
for kernel in update_adam update_adamw; do
    function_of "$scratch/good" "sherd__cuda_kernel_$kernel" >"$scratch/one"
    roots=$(grep -c 'MUFU.RSQ' "$scratch/one" || true) fused=$(grep -cE 'FFMA' "$scratch/one" || true)
    divisions=$(grep -c 'MUFU.RCP' "$scratch/one" || true)
    echo "$kernel: $roots roots, $divisions divisions, $fused fma"
    # A refined root has 3 fma or more, a refined division 5; AdamW itself has 5 an element.
    if [ "$roots" -lt 9 ] || [ "$divisions" -lt 9 ] || [ "$fused" -lt $((3 * roots + 5 * divisions)) ]; then
        complain "$kernel: roots or divisions are not refined, or it was not read"
    fi
done
if grep -nE 'FFMA[.A-Z]*\.FTZ|MUFU\.(SQRT|EX2|LG2|SIN|COS|TANH)|(RED|ATOM)[A-Z]*(\.[A-Z0-9]+)*\.(F16|BF16|F32|F64)' "$scratch/good" |
    head -3 | grep .; then
    complain "a flushing fma, an estimate or a floating-point atomic"
fi
for kernel in update_adamw sum_2_bf16 sum_2_f32 convert; do
    function_of "$scratch/good" "sherd__cuda_kernel_$kernel" >"$scratch/one"
    loads=$(grep -c 'LDG.E.EF.128' "$scratch/one" || true) stores=$(grep -cE 'STG.E(\.EF)?.128' "$scratch/one" || true)
    echo "$kernel: $loads loads and $stores stores of 16 bytes"
    if [ "$loads" -lt 2 ] || [ "$stores" -lt 2 ]; then complain "$kernel: too few accesses of 16 bytes"; fi
done

sass "$scratch/wrong" -O3 -std=c++17 -use_fast_math
grep -qE 'FFMA[.A-Z]*\.FTZ|MUFU\.SQRT' "$scratch/wrong" || complain "with -use_fast_math nothing was found: this check proves nothing"
exit "$failed"
