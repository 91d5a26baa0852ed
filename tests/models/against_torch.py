# SPDX-License-Identifier: MIT
"""Compares the decoder's loss and every gradient with PyTorch's autograd, computed in fp64 from the same weights.

usage: against_torch.py DUMP WORKDIR

fp32: relative difference, max |a - b| / max |b| per parameter, at most 1e-5. bf16: the reference is fp64 on the bf16
weights, the bound is the one docs/numerics-models.md derives. Exit code 77 where PyTorch is missing.
"""
import math
import os
import subprocess
import sys

try:
    import numpy as np
    import torch
except ImportError:
    print("skipped: PyTorch is not installed (Debian: python3-torch)")
    sys.exit(77)

torch.set_num_threads(2)
FP32_BOUND = 1e-5
LAYER = ["norm1", "q", "k", "v", "o", "norm2", "gate", "up", "down"]


def read(path, case):
    layers, hidden, heads, kv, wide, vocab, tied, batch, seq = case[:9]
    data = open(path, "rb").read()
    at = 0

    def take(dtype, count):
        nonlocal at
        out = np.frombuffer(data, dtype=dtype, count=count, offset=at)
        at += out.nbytes
        return out

    n = int(take("<i8", 1)[0])
    sizes = [int(x) for x in take("<i8", n)]
    weights = [take("<f4", s) for s in sizes]
    tokens = take("<i4", batch * seq).reshape(batch, seq)
    targets = take("<i4", batch * seq).reshape(batch, seq)
    loss = float(take("<f8", 1)[0])
    grads = [take("<f4", s) for s in sizes]
    again = float(take("<f8", 1)[0])
    logits = take("<f4", vocab)
    assert at == len(data), "the dump has %d bytes more" % (len(data) - at)
    return weights, tokens, targets, loss, grads, again, logits


def norm(x, w, eps=1e-5):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rotate(x):  # [batch, heads, seq, dim], as in Hugging Face's Llama
    seq, dim = x.shape[2], x.shape[3]
    inverse = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    angle = torch.outer(torch.arange(seq, dtype=torch.float64), inverse)
    angle = torch.cat([angle, angle], -1)
    half = torch.cat([-x[..., dim // 2:], x[..., : dim // 2]], -1)
    return x * angle.cos() + half * angle.sin()


def reference(case, weights, tokens, targets):
    layers, hidden, heads, kv, wide, vocab, tied, batch, seq = case[:9]
    dim = hidden // heads
    p = [torch.tensor(w.astype(np.float64)) for w in weights]
    shapes = [(hidden,), (hidden, hidden), (kv * dim, hidden), (kv * dim, hidden), (hidden, hidden), (hidden,),
              (wide, hidden), (wide, hidden), (hidden, wide)]
    p[0] = p[0].reshape(vocab, hidden)
    for i in range(layers):
        for j, shape in enumerate(shapes):
            p[1 + 9 * i + j] = p[1 + 9 * i + j].reshape(shape)
    if not tied:
        p[-1] = p[-1].reshape(vocab, hidden)
    for w in p:
        w.requires_grad_(True)
    head = p[0] if tied else p[-1]
    x = torch.nn.functional.embedding(torch.tensor(tokens.astype(np.int64)), p[0])
    mask = torch.full((seq, seq), -math.inf, dtype=torch.float64).triu(1)
    for i in range(layers):
        n1, q, k, v, o, n2, gate, up, down = p[1 + 9 * i: 10 + 9 * i]
        h = norm(x, n1)
        split = lambda t, n: t.reshape(batch, seq, n, dim).transpose(1, 2)
        qh, kh, vh = rotate(split(h @ q.T, heads)), rotate(split(h @ k.T, kv)), split(h @ v.T, kv)
        kh, vh = kh.repeat_interleave(heads // kv, 1), vh.repeat_interleave(heads // kv, 1)
        s = torch.softmax(qh @ kh.transpose(2, 3) / math.sqrt(dim) + mask, -1)
        x = x + (s @ vh).transpose(1, 2).reshape(batch, seq, hidden) @ o.T
        h = norm(x, n2)
        x = x + (torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T
    logits = norm(x, p[1 + 9 * layers]) @ head.T
    wanted = torch.tensor(targets.astype(np.int64)).reshape(-1)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocab), wanted)
    loss.backward()
    return float(loss), [w.grad.reshape(-1).numpy() for w in p], logits[0, -1].detach().numpy()


def names(case):
    out = ["embed"] + ["layer%d.%s" % (i, n) for i in range(case[0]) for n in LAYER] + ["norm"]
    return out + ([] if case[6] else ["head"])


def relative(a, b, whole=0.0):
    """A gradient that is zero by nature (queries of a single token) is measured against the largest of all."""
    largest = np.abs(b).max()
    return float(np.abs(a - b).max() / (largest if largest > 1e-12 * whole else whole))


def bf16_bound(case):
    """docs/numerics-models.md: 19 roundings a layer and 5 more, of standard deviation 0.41 · 2^-8, times 1.5, times 2."""
    return 3 * 0.41 * 2.0 ** -8 * math.sqrt(19 * case[0] + 5)


def run(dump, work, case, threads, gemm):
    path = os.path.join(work, "dump.bin")
    command = [dump] + [str(x) for x in case] + [str(gemm), str(threads), path]
    done = subprocess.run(command, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=100)
    if gemm == 2 and "this build has none" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    weights, tokens, targets, loss, grads, again, logits = read(path, case)
    os.remove(path)
    want_loss, want_grads, want_logits = reference(case, weights, tokens, targets)
    bound = FP32_BOUND if case[10] == 0 else bf16_bound(case)
    whole = max(np.abs(w).max() for w in want_grads)
    worst = max((relative(g, w, whole), n) for g, w, n in zip(grads, want_grads, names(case)))
    loss_off, logit_off = abs(loss - want_loss) / want_loss, relative(logits, want_logits)
    ok = worst[0] <= bound and loss_off <= bound and logit_off <= bound and abs(again - loss) <= bound * abs(loss)
    print("%-4s %-46s threads %d gemm %d: loss %.6f off %.1e, worst gradient %.1e (%s), logits %.1e, bound %.1e"
          % ("ok" if ok else "FAIL", case, threads, gemm, loss, loss_off, worst[0], worst[1], logit_off, bound))
    return ok


# layers, hidden, heads, kv heads, intermediate, vocabulary, tied, batch, seq, checkpointing, dtype (0 fp32, 1 bf16)
CASES = [
    (1, 32, 2, 2, 40, 50, 0, 1, 1, 0, 0),
    (2, 64, 4, 2, 176, 256, 0, 2, 37, 0, 0),
    (2, 64, 4, 2, 176, 256, 1, 2, 37, 1, 0),
    (3, 96, 6, 1, 100, 130, 1, 3, 65, 0, 0),
    (2, 128, 2, 2, 344, 70, 0, 1, 300, 1, 0),
    (2, 72, 3, 3, 129, 515, 0, 2, 129, 0, 0),
    (1, 160, 1, 1, 64, 40, 1, 1, 70, 0, 0),
    (1, 64, 2, 1, 96, 90001, 1, 2, 64, 0, 0),
    (2, 64, 4, 2, 176, 256, 0, 2, 37, 0, 1),
    (3, 96, 6, 2, 256, 256, 1, 2, 100, 1, 1),
    (1, 64, 2, 1, 96, 90001, 1, 2, 64, 0, 1),
]

GEMMS = (1, 2)  # own, oneDNN


def main():
    dump, work = sys.argv[1], sys.argv[2]
    os.makedirs(work, exist_ok=True)
    results = [run(dump, work, case, 1 + (i + gemm) % 2, gemm) for i, case in enumerate(CASES) for gemm in GEMMS]
    skipped, failed = results.count(None), results.count(False)
    print("%d comparisons, %d failed, %d not built" % (len(results) - skipped, failed, skipped))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
