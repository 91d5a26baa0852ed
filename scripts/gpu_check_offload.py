# SPDX-License-Identifier: MIT
"""Offloading on a GPU: what gpu-check --speed measures of it (rows as in gpu_check_items.py).

The same model four times: nothing offloaded, half of the optimizer's state, all of it, all of it and speculated. What a step
takes longer than without offloading is the exposed update time. It is compared with

    1.1 x (max(0, bytes / bandwidth - what hides it) + one bucket)

where bytes cross the bus by the plan, the bandwidth is of plain copies between pinned memory and the GPU in the same run, each
way by itself, and the slower way counts. A speculated update hides behind backward; others cannot begin before the vote, which
comes after it. The host's memory bus is not in that bound: where the update itself is slower than the bus, it is missed.
"""
import json
import re

import gpu_check_items as items

MODEL, SEQ = "1.3b", 1024
FACTOR = 1.1
OFFLOADED = ["--set", "zero_optimization.offload_optimizer.device=cpu"]
WAYS = (("none", []), ("half", OFFLOADED + ["--set", "zero_optimization.offload_optimizer.ratio=0.5"]), ("full", OFFLOADED),
        ("full + speculation", OFFLOADED + ["--set", "sherd.speculate=true"]))


def settings(run, way):
    """Of zero_optimization, for every way alike; on the stub buckets small enough that a half is a half."""
    small = ["--set", "zero_optimization.reduce_bucket_size=20000", "--set", "sherd.exact_bucket_size=true"] if run.stub else []
    return ["--set", "zero_optimization.stage=2"] + small + way


def crossing(text):
    """Of `sherd plan`: parameters, bytes to the host, bytes back, and the largest bucket's larger part of them."""
    found = re.search(r"elements (\d+), buckets (\d+), sums in (fp32|bf16)", text)
    if not found:
        raise ValueError("the plan does not say its elements, buckets and sums")
    width = {"fp32": 4, "bf16": 2}
    rows = re.findall(r"^ +\d+ +\d+ +\d+ +(\d+) (fp32|bf16|fp16)/\S+ +\d+ +\d+ +(\S+)", text, re.M)
    if len(rows) != int(found[2]):
        raise ValueError("%d buckets are listed of %s" % (len(rows), found[2]))
    down = up = largest = 0
    for elems, dtype, place in rows:
        if place == "device":
            continue
        down += int(elems) * width[found[3]]
        up += int(elems) * (4 if dtype == "fp32" else 2)
        largest = max(largest, int(elems) * max(width[found[3]], 4 if dtype == "fp32" else 2))
    return {"elems": int(found[1]), "down": down, "up": up, "largest": largest}


def bound_ms(bytes_of, down_rate, up_rate, hidden_ms):
    """Rates in GB/s."""
    bus = max(bytes_of["down"] / down_rate, bytes_of["up"] / up_rate) / 1e6
    return FACTOR * (max(0.0, bus - hidden_ms) + bytes_of["largest"] / min(down_rate, up_rate) / 1e6)


def bus(run):
    """Bandwidth to the host and back, in GB/s."""
    size = ["--elems", "65536", "--reps", "3"] if run.stub else ["--elems", str(1 << 26), "--reps", "20"]
    told = [json.loads(line) for line in run.run([run.program("cuda_update_bench")] + size, 120).splitlines()]
    rates = {row["name"]: row["gb_per_s"] for row in told}
    return rates["copy to the host"], rates["copy from the host"]


def plan(run, way):
    return crossing(run.run([run.program("sherd"), "plan", "--model", "tiny" if run.stub else MODEL] + items.BF16
                            + settings(run, way), 60))


def offload(run):
    down_rate, up_rate = bus(run)
    rows = [{"name": "copy to the host", "value": down_rate, "unit": "GB/s"},
            {"name": "copy from the host", "value": up_rate, "unit": "GB/s"}]
    none = None
    for name, way in WAYS:
        row, cost = items.bench(run, MODEL, SEQ, *settings(run, way)), plan(run, way)
        none = none or row
        title = "%s, %s" % (items.title(run, MODEL, SEQ), name)
        rows.append({"name": title, "value": row["tokens_per_s"], "unit": "tokens/s",
                     "ratio": row["tokens_per_s"] / none["tokens_per_s"],
                     "note": "step %.1f ms, backward %.1f, update %.1f; ledger %.3f GB on the GPU"
                     % (row["step_ms"], row["backward_ms"], row["update_ms"], row["peak_bytes"] / 1e9)})
        if not way:
            continue
        rows.append({"name": title + ", over the bus", "value": (cost["down"] + cost["up"]) / cost["elems"],
                     "unit": "bytes a parameter"})
        bound = bound_ms(cost, down_rate, up_rate, none["backward_ms"] if "speculation" in name else 0.0)
        exposed = row["step_ms"] - none["step_ms"]
        rows.append({"name": title + ", exposed update", "value": exposed, "unit": "ms a step", "ratio": exposed / bound,
                     "limit": None if run.stub else 1.0, "least": False, "note": "ratio: of the bound, %.4g ms" % bound})
    return rows


def deepspeed(run):
    """The same model under DeepSpeed, ZeRO-2 with its optimizer on the CPU, in PyTorch."""
    name = "DeepSpeed ZeRO-2 offload"
    if items.torch_python(run) is None:
        return [{"name": name, "value": None, "note": "PyTorch is not installed here: not run"}]
    tokens, more = (64, ["--device", "cpu"]) if run.stub else (items.TOKENS, [])
    trainer = None
    try:
        trainer = items.TorchTrainer(run, "tiny" if run.stub else MODEL, 16 if run.stub else SEQ, tokens, "--deepspeed-offload",
                                     "--no-compile", *more)
        theirs = trainer.steps(2 if run.stub else 10)
    except RuntimeError as fault:  # it is not installed, or cannot build its CPU optimizer: no failure of ours
        return [{"name": name, "value": None, "note": "not run: %s" % fault}]
    finally:
        if trainer is not None:
            trainer.close()
    ours = items.bench(run, MODEL, SEQ, *settings(run, OFFLOADED))
    title = items.title(run, MODEL, SEQ)
    return [{"name": "%s, %s %s" % (title, name, trainer.ready["deepspeed"]), "value": theirs["tokens_per_s"],
             "unit": "tokens/s"},
            {"name": title + ", Sherd, full", "value": ours["tokens_per_s"], "unit": "tokens/s",
             "ratio": ours["tokens_per_s"] / theirs["tokens_per_s"]}]
