#!/bin/sh
# SPDX-License-Identifier: MIT
#
# numa_train.sh SHERD TEXT RANKS: runs in the guest of scripts/numa-vm, on busybox. Trains without and with offload: the same state,
# and meanwhile the kernel is asked where each rank's arenas (mappings with a preferred node) and offload workers are: every page
# on the arena's node, every worker pinned to a processor of it, each rank on a node of its own.
sherd=$1 text=$2 ranks=$3

fail() {
    echo "numa_train: $*"
    exit 1
}

train() {
    "$sherd" train --model tiny --ranks "$ranks" --threads 1 --seq 8 --steps 3 --data "$text" \
        --set train_micro_batch_size_per_gpu=1 --set bf16.enabled=true --set zero_optimization.stage=2 "$@" 2>&1
}

hash_of() {
    grep "^state's hash" "$1" | tail -n 1
}

# One line per mapping of an arena: process, mapping and its counts per node; one per worker: process, thread, processors.
look() {
    for pid in $(pidof "${sherd##*/}"); do
        process=/proc/$pid
        grep ' prefer:' "$process/numa_maps" 2>/dev/null | sed "s/^/$pid /" >>maps
        for thread in "$process"/task/*; do
            case $(cat "$thread/comm" 2>/dev/null) in
                offload-*) echo "$pid ${thread##*/} $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$thread/status")" >>workers ;;
            esac
        done
    done 2>/dev/null
}

echo "numa_train: without offload"
train >plain.txt || fail "training without offload: $(tail -n 3 plain.txt)"
grep 'step 3/3' plain.txt
echo "numa_train: with offload"
: >maps && : >workers
train --set zero_optimization.offload_optimizer.device=cpu >offloaded.txt &
child=$!
while kill -0 $child 2>/dev/null; do
    look
    sleep 1
done
wait $child || fail "training with offload: $(tail -n 3 offloaded.txt)"
grep 'arena\|threads' offloaded.txt
echo "numa_train: $(hash_of offloaded.txt)"
[ -n "$(hash_of plain.txt)" ] && [ "$(hash_of plain.txt)" = "$(hash_of offloaded.txt)" ] ||
    fail "the state differs: $(hash_of plain.txt) without offload"

# The last look at each mapping counts: earlier ones may have come while it was being made.
awk '{ for (i = 3; i <= NF; i++) if ($i ~ /^prefer:/) node = substr($i, 8)
       there = off = 0
       for (i = 4; i <= NF; i++) if ($i ~ /^N[0-9]+=/) { split(substr($i, 2), part, "="); if (part[1] == node) there += part[2]; else off += part[2] }
       last[$1 " " $2] = $1 " " node " " there " " off }
     END { for (key in last) print last[key] }' maps | sort -n >arenas
awk '{ last[$1 " " $2] = $0 } END { for (key in last) print last[key] }' workers | sort -n >last_workers
sed 's/^/numa_train: process, node, pages there, elsewhere: /' arenas
sed 's/^/numa_train: process, worker, processors: /' last_workers

awk '$4 > 0 || $3 == 0 { bad = 1 } END { exit bad }' arenas || fail "pages lie off their node"
[ "$(awk '{ print $1 }' arenas | sort -u | wc -l)" -eq "$ranks" ] || fail "not every rank has an arena"
[ "$(awk '{ print $2 }' arenas | sort -u | wc -l)" -eq "$ranks" ] || fail "the ranks do not sit on nodes of their own"
[ "$(awk '{ print $1 }' last_workers | sort -u | wc -l)" -eq "$ranks" ] || fail "not every rank has a worker"
while read -r pid _ cpu; do
    node=$(awk -v pid="$pid" '$1 == pid { print $2; exit }' arenas)
    [ -d "/sys/devices/system/cpu/cpu$cpu/node$node" ] || fail "a worker of process $pid may run on '$cpu', its arena is on node $node"
done <last_workers
echo "numa_train: every page and every worker is where it should be"
