# SPDX-License-Identifier: MIT
"""Compares orthogonalised matrices with the same polynomial in PyTorch, in fp32 and in fp64.

usage: muon_against_torch.py DUMP

An error in X grows by at most 3.4445, the polynomial's slope at 0, in each later step; a step makes one of about the root of its
chains' length in fp32 roundings, of which 8 are allowed for. Against fp64 that is the bound, against fp32, which errs as much,
twice that. Exit code 77 where PyTorch is missing.
"""
import math
import subprocess
import sys

try:
    import numpy as np
    import torch
except ImportError:
    print("skipped: PyTorch is not installed (Debian: python3-torch)")
    sys.exit(77)

torch.set_num_threads(2)
SHAPES = [(1, 7), (7, 1), (64, 64), (96, 200), (200, 96), (257, 31), (120, 121)]
STEPS = 5


def polynomial(matrix, steps, dtype):
    x = torch.tensor(matrix, dtype=dtype)
    rows, cols = x.shape
    x = x.T if rows > cols else x
    x = x / (torch.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    x = x.T if rows > cols else x
    return (x * math.sqrt(max(1.0, rows / cols))).double().numpy()


def bound(rows, cols):
    error = 0.0
    for _ in range(STEPS):
        error = 3.4445 * error + 8 * 2.0**-24 * math.sqrt(max(rows, cols))
    return error * math.sqrt(max(1.0, rows / cols))


def main(dump):
    for number, (rows, cols) in enumerate(SHAPES):
        matrix = np.random.RandomState(number).standard_normal((rows, cols)).astype("<f4")
        command = [dump, str(rows), str(cols), str(STEPS)]
        done = subprocess.run(command, input=matrix.tobytes(), stdout=subprocess.PIPE, check=True)
        ours = np.frombuffer(done.stdout, dtype="<f4").reshape(rows, cols).astype(np.float64)
        exact = np.abs(ours - polynomial(matrix, STEPS, torch.float64)).max()
        single = np.abs(ours - polynomial(matrix, STEPS, torch.float32)).max()
        fewer = np.abs(ours - polynomial(matrix, STEPS - 1, torch.float64)).max()
        limit = bound(rows, cols)
        print("%d x %d: off by %.2g from fp64, %.2g from fp32, bound %.2g" % (rows, cols, exact, single, limit))
        assert exact <= limit, "further from fp64 than the bound"
        assert single <= 2 * limit, "further from fp32 than twice the bound"
        assert fewer > 2 * limit, "one step less would not be noticed"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
