# SPDX-License-Identifier: MIT
"""The host step of Sherd, DeepSpeed's CPUAdam and PyTorch's fused CPU AdamW, interleaved in one process.

All three do the same job on the same arrays: gradients times one factor (unscale and clip), AdamW on fp32 master and
moments, a bf16 copy of the new master. Each does it in its own best way:

  sherd      one pass
  deepspeed  grad.mul_(factor), CPUAdam.step(), bf16.copy_(master): what ZeRO's offloaded step calls
  pytorch    AdamW(fused=True) with grad_scale, which takes the factor into its pass, then bf16.copy_(master)

The arrays are shared, so memory is placed alike for all; gradients are refilled before every turn, outside the timing.
Before the timing, each must have made the same step from the same state, up to rounding. Bytes per parameter count what
each pass must read or write, once; that a line which is only written is read first is not counted.

Run by host_step_peers, which makes the environment.
"""
import argparse
import ctypes
import math
import mmap
import os
import statistics
import sys
import time

import torch

HYPER = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
FACTOR = 0.37


class Step(ctypes.Structure):
    """struct host_step of host_step_shared.c."""

    _fields_ = [("n", ctypes.c_int64)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("sum", "master", "exp_avg", "exp_avg_sq", "emit")]
    _fields_ += [(name, ctypes.c_double) for name in ("factor", "lr", "beta1", "beta2", "eps", "weight_decay")]
    _fields_ += [("step", ctypes.c_int64), ("sum_is_bf16", ctypes.c_int32)]


def mapped(count, dtype, pages):
    """A tensor in pages of the asked size, as Sherd's arenas have them."""
    size = count * dtype.itemsize
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if pages == "huge":
        block.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(block, dtype=dtype)


class Arrays:
    def __init__(self, count, pages):
        self.count = count
        self.master, self.exp_avg, self.exp_avg_sq, self.grad = (mapped(count, torch.float32, pages) for _ in range(4))
        self.emit = mapped(count, torch.bfloat16, pages)
        self.fill(seed=None)

    def fill(self, seed):
        if seed is None:  # fast, for timing; touches all pages
            for tensor, value in ((self.master, 0.5), (self.exp_avg, 1e-3), (self.exp_avg_sq, 1e-5), (self.grad, 1e-2)):
                tensor.fill_(value)
            self.emit.zero_()
            return
        generator = torch.Generator().manual_seed(seed)
        self.master.normal_(generator=generator)
        self.exp_avg.normal_(std=1e-2, generator=generator)
        self.exp_avg_sq.normal_(std=1e-3, generator=generator).abs_()
        self.grad.normal_(std=1e-1, generator=generator)


class Sherd:
    name = "sherd"
    bytes_per_param = 4 + 3 * 8 + 2

    def __init__(self, arrays, threads, library):
        self.arrays, self.steps = arrays, 0
        self.library = ctypes.CDLL(library)
        self.library.host_step_open.restype = ctypes.c_void_p
        self.library.host_step_kernels.restype = ctypes.c_char_p
        self.library.host_step_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(Step)]
        self.team = self.library.host_step_open(threads)
        if not self.team:
            sys.exit("peers.py: Sherd's team could not be made")
        self.detail = self.library.host_step_kernels().decode()

    def run(self):
        a = self.arrays
        self.steps += 1
        step = Step(n=a.count, sum=a.grad.data_ptr(), master=a.master.data_ptr(), exp_avg=a.exp_avg.data_ptr(),
                    exp_avg_sq=a.exp_avg_sq.data_ptr(), emit=a.emit.data_ptr(), factor=FACTOR, lr=HYPER["lr"],
                    beta1=HYPER["betas"][0], beta2=HYPER["betas"][1], eps=HYPER["eps"],
                    weight_decay=HYPER["weight_decay"], step=self.steps)
        self.library.host_step_run(self.team, ctypes.byref(step))


class Peer:
    """A torch.optim optimizer whose state lies in the shared arrays."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.param = torch.nn.Parameter(arrays.master)
        self.param.grad = arrays.grad
        self.optimizer = self.make([self.param])
        self.optimizer.state[self.param].update(self.state(arrays))

    def state(self, arrays):
        return {"exp_avg": arrays.exp_avg, "exp_avg_sq": arrays.exp_avg_sq}

    def check_state(self):
        held = self.optimizer.state[self.param]
        if held["exp_avg"].data_ptr() != self.arrays.exp_avg.data_ptr():
            sys.exit(f"peers.py: {self.name} does not work on the shared moments")


class DeepSpeed(Peer):
    name = "deepspeed"
    bytes_per_param = 8 + (4 + 3 * 8) + 6

    def make(self, params):
        import deepspeed
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        self.detail = deepspeed.__version__
        return DeepSpeedCPUAdam(params, adamw_mode=True, **HYPER)

    def state(self, arrays):
        return {"step": 0, **super().state(arrays)}

    def run(self):
        self.param.grad.data.mul_(FACTOR)
        self.optimizer.step()
        self.arrays.emit.copy_(self.param.data)


class PyTorch(Peer):
    name = "pytorch"
    bytes_per_param = (8 + 3 * 8) + 6  # the scaled gradient is written back: checked below

    def make(self, params):
        self.detail = torch.__version__
        optimizer = torch.optim.AdamW(params, fused=True, **HYPER)
        optimizer.grad_scale = torch.tensor(1.0 / FACTOR)
        optimizer.found_inf = torch.tensor(0.0)
        return optimizer

    def state(self, arrays):
        return {"step": torch.tensor(0.0), **super().state(arrays)}

    def run(self):
        self.optimizer.step()
        self.arrays.emit.copy_(self.param.data)


def same_job(library, threads):
    """Every contestant makes the same step, checked on small arrays against plain arithmetic in double."""
    makers = [lambda a: Sherd(a, threads, library), DeepSpeed, PyTorch]
    for make in makers:
        arrays = Arrays(1 << 16, "small")
        contestant = make(arrays)
        arrays.fill(seed=7)
        p, m, v, g = (t.double() for t in (arrays.master, arrays.exp_avg, arrays.exp_avg_sq, arrays.grad))
        contestant.run()
        g, (b1, b2) = g * FACTOR, HYPER["betas"]
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p * (1 - HYPER["lr"] * HYPER["weight_decay"])
        p = p - HYPER["lr"] / (1 - b1) * m / (v.sqrt() / math.sqrt(1 - b2) + HYPER["eps"])
        for what, got, want in (("master", arrays.master, p), ("exp_avg", arrays.exp_avg, m),
                                ("exp_avg_sq", arrays.exp_avg_sq, v)):
            # The moments' terms may cancel: one part in 10^5 of the term, not of the rest.
            worst = ((got.double() - want).abs() / (want.abs() + 1e-3)).max().item()
            if worst > 1e-5:
                sys.exit(f"peers.py: {contestant.name}'s {what} is off by {worst:.1e}: not the same job")
        if (arrays.emit.double() - p).abs().div(p.abs() + 1e-3).max().item() > 2**-8:
            sys.exit(f"peers.py: {contestant.name} did not emit bf16")
        if isinstance(contestant, Peer):
            contestant.check_state()
            written = not torch.equal(arrays.grad.double(), (g / FACTOR).float().double())
            if not written:
                sys.exit(f"peers.py: {contestant.name} leaves the gradient alone: its bytes are counted wrongly")


def measure(count, options):
    arrays = Arrays(count, options.pages)
    contestants = [Sherd(arrays, options.threads, options.library), DeepSpeed(arrays), PyTorch(arrays)]
    seconds = {c.name: [] for c in contestants}
    for turn in range(-1, options.reps):
        order = contestants[turn % 3:] + contestants[:turn % 3]
        for contestant in order:
            arrays.grad.fill_(1e-2)
            time.sleep(0.02)  # idle OpenMP threads stop looking for work
            begin = time.perf_counter()
            contestant.run()
            if turn >= 0:
                seconds[contestant.name].append(time.perf_counter() - begin)
    report(count, contestants, seconds)


def report(count, contestants, seconds):
    print(f"{count >> 20} M parameters, {len(seconds['sherd'])} rounds")
    print(f"  {'':24} {'M parameters/s (quartiles)':>34} {'bytes':>6} {'GB/s':>7} {'speed':>7} {'bytes':>7} {'share':>7}")
    ours = contestants[0]
    median = {c.name: statistics.median(seconds[c.name]) for c in contestants}
    for c in contestants:
        ranked = sorted(seconds[c.name])
        low, high = ranked[(3 * len(ranked)) // 4 if len(ranked) > 1 else 0], ranked[len(ranked) // 4]
        rate = f"{count / median[c.name] / 1e6:.1f} ({count / low / 1e6:.1f} to {count / high / 1e6:.1f})"
        line = f"  {c.name + ' ' + c.detail:24} {rate:>34} {c.bytes_per_param:6} "
        line += f"{count * c.bytes_per_param / median[c.name] / 1e9:7.2f}"
        if c is not ours:
            speed, moved = median[c.name] / median[ours.name], c.bytes_per_param / ours.bytes_per_param
            line += f" {speed:7.3f} {moved:7.3f} {speed / moved:7.3f}"
        print(line, flush=True)
    print("  speed: sherd's parameters/s over theirs; bytes: their bytes over sherd's; share: the one over the other")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="64", help="sizes in 2^20 parameters, separated by commas")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--reps", type=int, default=11)
    parser.add_argument("--pages", choices=("huge", "small"), default="huge")
    parser.add_argument("--library", required=True, help="libhost_step_shared.so of the build")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    same_job(options.library, options.threads)
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown processor")
    print(f"{model}, {os.cpu_count()} processors, {options.threads} threads, {options.pages} pages, AdamW, fp32 gradients")
    for size in options.params.split(","):
        measure(int(size) << 20, options)


if __name__ == "__main__":
    with torch.no_grad():
        main()
