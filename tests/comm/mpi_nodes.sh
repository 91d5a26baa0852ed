#!/bin/sh
# SPDX-License-Identifier: MIT
# mpi_nodes.sh MPIRUN PROGRAM MODE: one of four ranks breaks, in nodes of one and of two ranks, and mpirun does not end the
# others; all of them must end by themselves with the sentence that names it. In some modes it only looks so, and all go on.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
nodes="1 2" says='^survived: rank [0-9]* after '
case $3 in
busy | sleep) says='^went on: rank [0-9]* ' ;;
doze) says='^went on: rank [0-9]* ' nodes=2 ;; # alone on its node it would be silent
esac
for per_node in $nodes; do
    timeout -k 5 60 "$1" --mca orte_abort_on_non_zero_status 0 -n 4 "$2" "$3" $per_node >"$scratch/$per_node" 2>&1 &
done
wait
for per_node in $nodes; do
    case $3 in
    silent) wanted=$((4 - per_node)) ;;
    busy | doze | sleep) wanted=4 ;;
    *) wanted=3 ;;
    esac
    said=$(grep -c "$says" "$scratch/$per_node")
    if [ "$said" -ne $wanted ]; then
        cat "$scratch/$per_node"
        echo "$said of $wanted ranks, $per_node ranks per node"
        exit 1
    fi
done >&2
