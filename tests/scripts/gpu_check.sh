#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# gpu_check.sh ROOT BUILD: scripts/gpu-check without a GPU ends with one sentence; on the stub of CUDA's runtime its items run,
# its tables say that they are the stub's, what is finished is not done again, and limits are judged as they should be.
set -euo pipefail
command -v python3 >/dev/null || exit 77
root=$(cd "$1" && pwd) build=$(cd "$2" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export SHERD_TORCH_PYTHON=none
fail() {
    echo "gpu_check.sh: $*" >&2
    exit 1
}
check() { # expected code, then arguments; output in $scratch/said
    local want=$1 code=0
    shift
    python3 "$root/scripts/gpu-check" "$@" --results "$scratch/results" >"$scratch/said" 2>&1 || code=$?
    [ $code -eq "$want" ] || {
        cat "$scratch/said" >&2
        fail "gpu-check $*: exit code $code, not $want"
    }
}

if ! ldconfig -p | grep -q libcuda.so.1; then
    for group in correct speed peers; do
        check 1 --$group
        [ "$(wc -l <"$scratch/said")" -eq 1 ] || fail "more than one line: $(cat "$scratch/said")"
        grep -q "no NVIDIA driver here" "$scratch/said" || fail "$(cat "$scratch/said")"
    done
fi
check 2 --results "$scratch"

check 0 --speed --stub "$build"
grep -q "stub, not a GPU's result" "$scratch/said" || fail "the table does not say that it is the stub's"
for figure in 'copy within the GPU' 'update adamw, fp32 sum, bf16 out' 'tiny for 1.3b, T=2048, ledger unlike plan' \
    'tiny, 4 ranks on one GPU, exposed communication' 'PyTorch is not installed here: not run' \
    'copy from the host' 'tiny for 1.3b, T=1024, none' 'tiny for 1.3b, T=1024, half, over the bus' \
    'tiny for 1.3b, T=1024, full + speculation, exposed update'; do
    grep -qF "$figure" "$scratch/said" || fail "no row '$figure': $(cat "$scratch/said")"
done
grep -q '^gpu-check: overlap_4 (' "$scratch/said" || fail "overlap_4 did not run"
# All sums (fp32) go to the host and all parameters (bf16) come back, with a little padding; of half, the buckets that are at
# least half.
python3 - "$scratch/said" <<'END'
import re, sys
text = open(sys.argv[1]).read()
bus = {name: float(value) for name, value in re.findall(r"^tiny for 1.3b, T=1024, (.*), over the bus +(\S+) +bytes", text, re.M)}
assert bus["full"] == bus["full + speculation"] and 6 <= bus["full"] < 6.1 and 3 <= bus["half"] < 4, bus
END
check 0 --speed --stub "$build"
! grep -q '^gpu-check: overlap_4 (' "$scratch/said" || fail "what was finished was done again"
check 3 --speed --stub "$build" --again --limit 0
[ -s "$scratch/results/speed.txt" ] || fail "the table was not kept"

python3 - "$root/scripts/gpu-check" <<'END'
import importlib.machinery, importlib.util, sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("gpu_check", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
loader.exec_module(module)
rows = [({"name": "told", "value": 1.0}, ""), ({"name": "x", "value": 5.0, "ratio": 0.93, "limit": 0.92}, "ok"),
        ({"name": "x", "value": 5.0, "ratio": 0.91, "limit": 0.92}, "MISSED"),
        ({"name": "x", "value": 0, "limit": 0, "least": False}, "ok"),
        ({"name": "x", "value": 1, "limit": 0, "least": False}, "MISSED"),
        ({"name": "x", "value": None, "failed": True}, "FAILED")]
import gpu_check_offload as offload
cost = {"down": 4e9, "up": 2e9, "largest": 4e8}  # 40 ms down, 20 ms back, a bucket 8 ms by the slower way
assert abs(offload.bound_ms(cost, 100.0, 50.0, 10.0) - 1.1 * (30 + 8)) < 1e-9
assert abs(offload.bound_ms(cost, 100.0, 50.0, 100.0) - 1.1 * 8) < 1e-9
for row, want in rows:
    assert module.verdict(row) == want, (row, want)
END
