#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# skipped.sh BUILD SHERD: every test that needs a GPU (label gpu) says without one that it is skipped: it ends with 77, which
# ctest is told to take for a skip, and has written why. Skipped itself where there is a GPU.
set -euo pipefail
command -v python3 >/dev/null || exit 77

said=$("$2" info)
case "$said" in
    *"no usable GPU"*) ;;
    *)
        echo "skipped: there is a GPU, so the tests run"
        exit 77
        ;;
esac
ctest --test-dir "$1" -L '^gpu$' --show-only=json-v1 | python3 -c '
import json, subprocess, sys
tests = json.load(sys.stdin)["tests"]
assert len(tests) >= 2, "only %d tests need a GPU" % len(tests)
for test in tests:
    properties = {p["name"]: p["value"] for p in test["properties"]}
    done = subprocess.run(test["command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    said = done.stdout.decode()
    print("%s: %d, %s" % (test["name"], done.returncode, said.strip().splitlines()[-1] if said.strip() else "silent"))
    assert properties["SKIP_RETURN_CODE"] == 77 and done.returncode == 77, test["name"]
    assert "GPU" in said or "driver" in said, said
'
