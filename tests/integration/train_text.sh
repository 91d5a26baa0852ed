#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# train_text.sh SHERD SOURCE TEXT: the demo's configuration for 300 steps of 2048 tokens, in bf16 and in fp32. The loss
# starts near ln 256 = 5.545 (the head is not zero), ends under 2.3 nats (mean of the last ten steps), and the two types
# end within 2 % of each other.
set -euo pipefail
sherd=$1 source=$2 text=$3
if [ ! -s "$text" ]; then
    echo "skipped: no text at $text (scripts/english-text makes it)"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

train() { # type, bf16.enabled
    "$sherd" train --model 10m --data "$text" --config "$source/examples/configs/demo.json" --set bf16.enabled="$2" \
        --ranks 2 --steps 300 --seq 256 --seed 1 --log "$folder/$1.jsonl"
}

# Mean loss of lines first..last of the log.
loss() {
    awk -v first="$2" -v last="$3" 'match($0, /"loss": *[-0-9.e+]+/) && !/"final"/ {
        n++
        if (n >= first && n <= last) { split(substr($0, RSTART, RLENGTH), part, ":"); sum += part[2]; used++ }
    } END { if (used != last - first + 1) exit 1; printf "%.5f", sum / used }' "$folder/$1.jsonl"
}

train bf16 true
train fp32 false
for type in bf16 fp32; do
    start=$(loss $type 1 1)
    end=$(loss $type 291 300)
    echo "$type: loss $start at step 1, $end over the last ten of 300 steps"
    awk -v s="$start" -v e="$end" 'BEGIN { exit !(s > 5.3 && s < 6.0 && e < 2.3) }'
done
awk -v a="$(loss bf16 291 300)" -v b="$(loss fp32 291 300)" 'BEGIN {
    d = (a - b) / b
    printf "bf16 ends %+.2f %% from fp32\n", 100 * d
    exit !(d < 0.02 && d > -0.02)
}'
