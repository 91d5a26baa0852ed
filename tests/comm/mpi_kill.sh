#!/bin/sh
# SPDX-License-Identifier: MIT
# mpi_kill.sh MPIRUN PROGRAM RANKS kill|stop: one rank is killed, or stands still, and mpirun does not end the others; all of them
# must end by themselves and say who it was.
what='died during'
[ "$4" = kill ] || what='\(did not arrive within 2 s at\|died during\)' # see end_stopped: only rank 0's is always the first
output=$(timeout -k 5 40 "$1" --mca orte_abort_on_non_zero_status 0 -n "$3" "$2" "$4" 2>&1)
survivors=$(printf '%s\n' "$output" | grep -c "^survived: rank [0-9]* (pid [0-9]*) $what barrier of bucket 17")
if [ "$survivors" -ne $(($3 - 1)) ]; then
    printf '%s\n%s of %s survivors\n' "$output" "$survivors" $(($3 - 1)) >&2
    exit 1
fi
