#!/bin/sh
# SPDX-License-Identifier: MIT
# mpi_nodes.sh MPIRUN PROGRAM MODE: one of four ranks breaks, in nodes of one and of two ranks, and mpirun does not end the
# others; all of them must end by themselves with the sentence that names it.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for per_node in 1 2; do
    timeout -k 5 60 "$1" --mca orte_abort_on_non_zero_status 0 -n 4 "$2" "$3" $per_node >"$scratch/$per_node" 2>&1 &
done
wait
for per_node in 1 2; do
    survivors=$(grep -c '^survived: rank [0-9]* after ' "$scratch/$per_node")
    if [ "$survivors" -ne 3 ]; then
        cat "$scratch/$per_node"
        echo "$survivors of 3 survivors, $per_node ranks per node"
        exit 1
    fi
done >&2
