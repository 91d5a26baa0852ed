#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# update_bench.sh BENCH: the benchmark of the update kernel, on the stub: every line is a JSON object with the bytes that the
# algorithm must move, and the times are positive. What they are says nothing about a GPU.
set -euo pipefail
command -v python3 >/dev/null || exit 77

"$1" --elems 65536 --reps 3 | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
per = {row["name"]: row["bytes"] / row["elems"] for row in rows}
assert len(rows) == 13 and rows[0]["name"] == "copy within the GPU" and rows[0]["ratio_to_copy"] == 1, rows
assert per["update adamw, fp32 sum, bf16 out"] == 30 and per["update adamw, bf16 sum, bf16 out"] == 28, per
assert per["update sgd, fp32 sum, bf16 out"] == 22 and per["tree sum, 4 x bf16, norm"] == 12, per
assert per["copy to the host"] == per["copy from the host"] == 4, per
assert all(row["ms"] > 0 and row["ms_low"] <= row["ms"] <= row["ms_high"] for row in rows), rows
assert all("stub" in row["device"] for row in rows), rows
'
! "$1" --elems 5 2>/dev/null || { echo "5 elements were taken" >&2; exit 1; }
