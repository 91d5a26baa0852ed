#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same decoder in PyTorch, as its users would write it: torch.compile, fused AdamW, scaled_dot_product_attention.

usage: torch_train.py train --model 350m --batch 8 --seq 1024 [--device cuda] [--no-compile] [--pure-bf16] [--checkpointing] [--deepspeed-offload]
       torch_train.py adamw --elems N
       torch_train.py products --model 350m --batch 8 --seq 1024

Parameters and moments are fp32 and products bf16 by autocast, which is what Sherd's fp32 master weights amount to;
--pure-bf16 keeps everything in bf16: less memory, other numerics. --deepspeed-offload trains by DeepSpeed instead: bf16, ZeRO-2
and its CPU optimizer; where that is not installed the program ends with 77. `train` reads how many steps to time from standard input,
a number a line, and answers each with a JSON object, so that it can take turns with other programs while it stays warm;
`adamw` times the optimizer alone, `products` the decoder's matrix products alone, forward and backward. Random tokens. Shapes are those of `sherd`; gpu-check compares the parameter counts.
"""
import argparse
import json
import os
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("skipped: PyTorch is not installed")
    sys.exit(77)

# layers, hidden, heads, kv heads, intermediate, vocabulary, tied
SHAPES = {
    "tiny": (2, 64, 4, 2, 176, 256, False),
    "10m": (6, 384, 6, 6, 1024, 256, False),
    "30m": (8, 512, 8, 8, 1728, 512, False),
    "124m": (12, 768, 12, 12, 2048, 50304, True),
    "350m": (24, 1024, 16, 16, 2816, 50304, True),
    "1.3b": (24, 2048, 16, 16, 5504, 32256, False),
    "7b": (30, 4096, 32, 32, 11008, 102400, False),
}
WARM_UP = 3


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
        return wide.to(x.dtype) * self.weight.to(x.dtype)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Layer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, wide):
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, hidden // heads
        self.norm1, self.norm2 = Norm(hidden), Norm(hidden)
        self.q = nn.Linear(hidden, hidden, bias=False)
        self.k = nn.Linear(hidden, kv_heads * self.dim, bias=False)
        self.v = nn.Linear(hidden, kv_heads * self.dim, bias=False)
        self.o = nn.Linear(hidden, hidden, bias=False)
        self.gate = nn.Linear(hidden, wide, bias=False)
        self.up = nn.Linear(hidden, wide, bias=False)
        self.down = nn.Linear(wide, hidden, bias=False)

    def attention(self, x, cos, sin):
        batch, seq, hidden = x.shape
        q = rotate(self.q(x).view(batch, seq, self.heads, self.dim).transpose(1, 2), cos, sin)
        k = rotate(self.k(x).view(batch, seq, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
        v = self.v(x).view(batch, seq, self.kv_heads, self.dim).transpose(1, 2)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).reshape(batch, seq, hidden))

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self, shape, seq, checkpointing):
        super().__init__()
        layers, hidden, heads, kv_heads, wide, vocab, tied = shape
        self.checkpointing = checkpointing
        self.embed = nn.Embedding(vocab, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, kv_heads, wide) for _ in range(layers))
        self.norm = Norm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)
        if tied:
            self.head.weight = self.embed.weight
        dim = hidden // heads
        angle = torch.outer(torch.arange(seq), 1.0 / 10000.0 ** (torch.arange(0, dim, 2) / dim))
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        if torch.is_autocast_enabled():
            x = x.to(torch.bfloat16)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for layer in self.layers:
            if self.checkpointing:
                x = torch.utils.checkpoint.checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def settle(device):
    if device == "cuda":
        torch.cuda.synchronize()


def quartiles(values):
    values = sorted(values)
    return values[len(values) // 4], statistics.median(values), values[(3 * len(values)) // 4]


def memory(device):
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved(),
            "used_bytes": total - free}


def deepspeed_engine(model, groups, batch):
    """One rank; DeepSpeed keeps fp32 weights and moments on the host and updates them there."""
    try:
        import deepspeed
    except ImportError:
        print("skipped: DeepSpeed is not installed", file=sys.stderr)
        sys.exit(77)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", "29511")):
        os.environ.setdefault(name, value)
    config = {"train_micro_batch_size_per_gpu": batch, "bf16": {"enabled": True},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "weight_decay": 0.1}},
              "zero_optimization": {"stage": 2, "overlap_comm": True, "contiguous_gradients": True,
                                    "offload_optimizer": {"device": "cpu", "pin_memory": True}}}
    return deepspeed.initialize(model=model, model_parameters=groups, config=config)[0], deepspeed.__version__


def train(args):
    shape = SHAPES[args.model]
    torch.manual_seed(1)
    model = Decoder(shape, args.seq, args.checkpointing).to(args.device)
    if args.pure_bf16:
        model = model.to(torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}]
    told = {}
    if args.deepspeed_offload:
        engine, told["deepspeed"] = deepspeed_engine(model, groups, args.batch)
    else:
        fused = {"fused": True} if args.device == "cuda" else {}
        optimizer = torch.optim.AdamW(groups, lr=1e-4, **fused)
        run = model if args.no_compile else torch.compile(model)

    def step():
        tokens = torch.randint(shape[5], (2, args.batch, args.seq), device=args.device)
        if args.deepspeed_offload:
            loss = engine(tokens[0], tokens[1])
            engine.backward(loss)
            engine.step()
            return loss
        with torch.autocast(args.device, torch.bfloat16, enabled=not args.pure_bf16):
            loss = run(tokens[0], tokens[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    began = time.perf_counter()
    for _ in range(WARM_UP):
        loss = step()
    settle(args.device)
    print(json.dumps({"ready": True, "parameters": parameters, "torch": torch.__version__, "loss": float(loss.detach()),
                      "seconds": time.perf_counter() - began, **told}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            loss = step()
            settle(args.device)
            seconds.append(time.perf_counter() - begin)
        low, middle, high = quartiles(seconds)
        tokens = args.batch * args.seq
        print(json.dumps({"model": args.model, "batch": args.batch, "seq": args.seq, "steps": len(seconds),
                          "tokens_per_s": tokens / middle, "tokens_per_s_low": tokens / high,
                          "tokens_per_s_high": tokens / low, "step_ms": middle * 1e3, "loss": float(loss.detach()),
                          "parameters": parameters, **memory(args.device)}), flush=True)


def adamw(args):
    weight = torch.nn.Parameter(torch.full((args.elems,), 0.01, device=args.device))
    weight.grad = torch.full_like(weight, 0.01)
    fused = {"fused": True} if args.device == "cuda" else {}
    optimizer = torch.optim.AdamW([weight], lr=1e-4, weight_decay=0.1, **fused)
    milliseconds = []
    for i in range(args.reps + WARM_UP):
        settle(args.device)
        if args.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            optimizer.step()
            end.record()
            settle(args.device)
            took = begin.elapsed_time(end)
        else:
            at = time.perf_counter()
            optimizer.step()
            took = (time.perf_counter() - at) * 1e3
        if i >= WARM_UP:
            milliseconds.append(took)
    low, middle, high = quartiles(milliseconds)
    moved = 28 * args.elems  # reads weight, gradient and two moments, writes all but the gradient
    print(json.dumps({"name": "torch AdamW, fused, fp32", "elems": args.elems, "bytes": moved, "ms": middle, "ms_low": low,
                      "ms_high": high, "gb_per_s": moved / middle / 1e6, "torch": torch.__version__,
                      **memory(args.device)}))


def products(args):
    layers, hidden, heads, kv_heads, wide, vocab, _ = SHAPES[args.model]
    rows, kv = args.batch * args.seq, hidden // heads * kv_heads
    shapes = [(hidden, hidden)] * 2 + [(hidden, kv)] * 2 + [(hidden, wide)] * 2 + [(wide, hidden)]
    seconds, flops = 0.0, 0
    for (k, n), times in [(shape, layers) for shape in shapes] + [((hidden, vocab), 1)]:
        # forward, and backward for inputs and for weights, as rows of m x k by k x n
        for m, inner, out in ((rows, k, n), (rows, n, k), (k, rows, n)):
            a = torch.randn(m, inner, device=args.device, dtype=torch.bfloat16)
            b = torch.randn(inner, out, device=args.device, dtype=torch.bfloat16)
            taken = []
            for i in range(args.reps + WARM_UP):
                settle(args.device)
                begin = time.perf_counter()
                for _ in range(4):
                    torch.mm(a, b)
                settle(args.device)
                taken.append((time.perf_counter() - begin) / 4)
            seconds += times * statistics.median(taken[WARM_UP:])
            flops += times * 2 * m * inner * out
    print(json.dumps({"model": args.model, "tflops": flops / seconds / 1e12, "ms": seconds * 1e3}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=("train", "adamw", "products"))
    parser.add_argument("--model", choices=sorted(SHAPES), default="350m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--elems", type=int, default=1 << 30)
    parser.add_argument("--reps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--pure-bf16", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--deepspeed-offload", action="store_true")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    {"train": train, "adamw": adamw, "products": products}[args.mode](args)


if __name__ == "__main__":
    main()
