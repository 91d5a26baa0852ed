# SPDX-License-Identifier: MIT
"""What gpu-check runs: an item is a function of the run that returns rows of its table.

A row is a dict: name, value, unit; limit, where there is one, for the ratio or else the value (least: False where less is
better); ratio; note. An item that raises is told as failed and tried again the next time; on the stub of CUDA's runtime sizes
shrink and nothing is a result.
"""
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

UPDATE_LIMIT = 0.92  # of a copy's bandwidth
PEER_LIMIT = 0.7     # of PyTorch's tokens/s
MEMORY_LIMIT = 0.02  # between the ledger and what the GPU says is used
# Dense bf16 tensor-core TFLOP/s as NVIDIA gives them, by what the GPU's name contains.
PEAKS = (("H100 PCIe", 756), ("H100", 989), ("H200", 989), ("GH200", 989), ("B200", 2250), ("A100", 312), ("L40S", 362),
         ("L40", 181), ("A40", 150), ("RTX 4090", 165), ("A10", 125))
MODELS = ("350m", "1.3b")
SEQS = (1024, 2048)
TOKENS = 8192  # of a micro-batch
BF16 = ["--set", "bf16.enabled=true"]


def torch_python(run):
    """A Python that has PyTorch, or None. SHERD_TORCH_PYTHON names it; "none": there is to be none."""
    if os.environ.get("SHERD_TORCH_PYTHON") == "none":
        return None
    for candidate in (os.environ.get("SHERD_TORCH_PYTHON"), sys.executable, shutil.which("python3")):
        if candidate and subprocess.run([candidate, "-c", "import torch"], capture_output=True).returncode == 0:
            return candidate
    return None


def versions(run):
    said = subprocess.run([run.program("sherd"), "info"], stdout=subprocess.PIPE, text=True, env=run.env).stdout
    words = ["sherd " + (re.search(r"^sherd: (.*)$", said, re.M) or [0, "?"])[1]]
    for pattern in (r"runtime ([0-9.]+)", r"(cuBLASLt [0-9.]+)", r"^nccl: (.*)$"):
        found = re.search(pattern, said, re.M)
        if found:
            words.append(("runtime " if "runtime" in pattern else "nccl: " if "nccl" in pattern else "") + found[1])
    return ", ".join(words)


# ---- correct

def tests(run):
    """Everything with the label gpu: the device's arithmetic, the engine's matrix, the command."""
    select = ["-R", "^device_cuda_kernels$"] if run.stub else ["-L", "^gpu$"]
    said = json.loads(run.run(["ctest", "--test-dir", run.build, "--show-only=json-v1"] + select))
    rows = []
    for test in said["tests"]:
        if "command" not in test:
            raise RuntimeError("%s is not built" % test["name"])
        began = time.monotonic()
        where = {p["name"]: p["value"] for p in test["properties"]}
        done = subprocess.run(test["command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=run.env,
                              cwd=where.get("WORKING_DIRECTORY", run.scratch), timeout=max(1, run.left()))
        row = {"name": test["name"], "value": time.monotonic() - began, "unit": "s", "failed": done.returncode != 0}
        if done.returncode != 0:
            row["note"] = ("skipped, which a GPU forbids: " if done.returncode == 77 else "") + done.stdout.strip()[-300:]
        rows.append(row)
    if len(rows) < (1 if run.stub else 3):
        raise RuntimeError("only %d tests have the label gpu" % len(rows))
    return rows


def text_file(run):
    path = os.path.join(run.scratch, "text.txt")
    if not os.path.exists(path):
        draw = random.Random(1)
        words = "the shard of a gradient waits for no rank and every bucket goes home in order".split()
        with open(path, "w") as file:
            file.write(" ".join(draw.choice(words) for _ in range(60000)))
    return path


def train(run, world, stage, *more):
    """Hashes of parameters and state after a short run, and the last record of its log."""
    log = os.path.join(run.scratch, "train.jsonl")
    size = ["--model", "tiny", "--seq", "16", "--steps", "3"] if run.stub else ["--model", "10m", "--seq", "128", "--steps", "10"]
    run.run([run.program("sherd"), "train", "--device", "cuda", "--data", text_file(run), "--ranks", str(world), "--log", log,
             "--set", "train_batch_size=8", "--set", "zero_optimization.stage=%d" % stage] + size + BF16 + list(more), 120)
    with open(log) as file:
        last = json.loads(file.readlines()[-1])
    return (last["param_hash"], last["state_hash"]), last


def same_bits(run):
    """State after training depends on the world only: not on stage, buckets, transport or run."""
    small = ("--set", "zero_optimization.reduce_bucket_size=100000", "--set", "sherd.exact_bucket_size=true")
    rows = []
    for world in (1, 2, 4):
        ways = [(0,), (1,), (2,), (2,), (2,) + small]
        if world == 1 and not run.stub:
            ways.append((2, "--comm", "nccl"))
        hashes = {}
        for way in ways:
            hashes.setdefault(train(run, world, *way)[0], []).append(" ".join(map(str, way)))
        rows.append({"name": "different states, world %d" % world, "value": len(hashes), "unit": "of %d runs" % len(ways),
                     "limit": 1, "least": False, "note": "" if len(hashes) == 1 else json.dumps(list(hashes.values()))})
    return rows


def sanitizer(run):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if run.stub or not os.path.exists(tool):
        return [{"name": "compute-sanitizer", "value": None, "note": "not installed here: not run"}]
    rows = []
    command = [run.program("sherd"), "train", "--device", "cuda", "--model", "tiny", "--data", text_file(run), "--seq", "16",
               "--steps", "2", "--ranks", "2", "--set", "train_batch_size=4", "--set", "zero_optimization.stage=2"] + BF16
    for check in ("memcheck", "racecheck"):
        said = run.run([tool, "--tool", check, "--error-exitcode", "9"] + command, 150)
        found = re.search(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", said)
        rows.append({"name": "compute-sanitizer %s, train on 2 ranks" % check, "value": int(found[1]) if found else 0,
                     "unit": "errors", "limit": 0, "least": False})
    return rows


# ---- speed

def update_kernel(run):
    size = ["--elems", "65536", "--reps", "3"] if run.stub else ["--elems", str(1 << 30), "--reps", "20"]
    rows = []
    for line in run.run([run.program("cuda_update_bench")] + size, 180).splitlines():
        told = json.loads(line)
        row = {"name": told["name"], "value": told["gb_per_s"], "unit": "GB/s", "ratio": told["ratio_to_copy"],
               "ms": told["ms"], "note": "%.3f ms (%.3f to %.3f)" % (told["ms"], told["ms_low"], told["ms_high"])}
        if told["name"].startswith("update adamw") and not run.stub:
            row["limit"] = UPDATE_LIMIT
        rows.append(row)
    return rows


def torch_adamw(run):
    """Beside ours without the bf16 output: both then touch 28 bytes a parameter."""
    python = torch_python(run)
    if python is None:
        return [{"name": "torch AdamW", "value": None, "note": "PyTorch is not installed here: not run"}]
    size = ["--elems", "65536", "--reps", "3", "--device", "cpu"] if run.stub else ["--elems", str(1 << 30)]
    told = json.loads(run.run([python, os.path.join(run.root, "bench/peers/torch_train.py"), "adamw"] + size, 120))
    ours = [row for row in update_kernel(run) if row["name"] == "update adamw, fp32 sum"][0]
    return [{"name": told["name"], "value": told["gb_per_s"], "unit": "GB/s", "note": "%.3f ms" % told["ms"]},
            {"name": "our update over it", "value": ours["ms"], "unit": "ms", "ratio": told["ms"] / ours["ms"]}]


def peak_of(run):
    for part, peak in PEAKS:
        if part in run.gpu.name:
            return peak * 1e12
    return None


def bench(run, model, seq, *more, tokens=TOKENS, steps=10):
    """One row of `sherd bench` as a dict."""
    if run.stub:
        model, seq, tokens, steps = "tiny", 16, 64, 2
    command = [run.program("sherd"), "bench", "--device", "cuda", "--model", model, "--seq", str(seq), "--batch",
               str(max(1, tokens // seq)), "--steps", str(steps), "--json"] + BF16 + list(more)
    row = json.loads(run.run(command, 240).splitlines()[-1])
    if not row["fits"]:
        raise RuntimeError("%s, %d tokens: %d bytes needed, %d there" % (model, tokens, row["needed_bytes"], row["available_bytes"]))
    return row


def title(run, model, seq):
    return "tiny for %s, T=%d" % (model, seq) if run.stub else "%s, T=%d" % (model, seq)


def memory_rows(name, row):
    """The plan's categories to the byte; and all that the ledger knows beside what the GPU says is gone."""
    planned, held = row["plan"]["device"], row["memory"]["device"]
    wrong = {c: (held.get(c), b) for c, b in planned.items() if c != "rounding" and held.get(c) != b}
    gone = row["gpu"]["used_bytes"] - row["gpu"]["used_before_bytes"]
    off = abs(gone - row["peak_bytes"]) / row["peak_bytes"]
    return [{"name": name + ", ledger unlike plan", "value": len(wrong), "unit": "categories", "limit": 0, "least": False,
             "note": json.dumps(wrong) if wrong else ""},
            {"name": name + ", used on the GPU beside the ledger", "value": off, "limit": MEMORY_LIMIT, "least": False,
             "note": "%d bytes gone since the context was made, %d in the ledger" % (gone, row["peak_bytes"])}]


def speed_of(model, seq):
    def item(run):
        row = bench(run, model, seq)
        name = title(run, model, seq)
        flops = row["tokens_per_s"] * row["flops_per_token"]
        rows = [{"name": name, "value": row["tokens_per_s"], "unit": "tokens/s",
                 "note": "step %.1f ms: forward %.1f, backward %.1f, exposed communication %.1f, update %.1f"
                 % (row["step_ms"], row["forward_ms"], row["backward_ms"], row["exposed_comm_ms"], row["update_ms"])},
                {"name": name + ", products", "value": flops / 1e12, "unit": "TFLOP/s",
                 "ratio": flops / peak_of(run) if peak_of(run) else None,
                 "note": "ratio: MFU against NVIDIA's figure" if peak_of(run) else "no figure for this GPU's peak"},
                {"name": name + ", peak of the ledger", "value": row["peak_bytes"] / 1e9, "unit": "GB"}]
        return rows + memory_rows(name, row)
    return item


def ceiling(run):
    """Products of the decoders' shapes alone, by cuBLASLt through PyTorch: what no step can exceed."""
    python = torch_python(run)
    if python is None:
        return [{"name": "matrix products alone", "value": None, "note": "PyTorch is not installed here: not run"}]
    rows = []
    for model in ("tiny",) if run.stub else MODELS:
        size = ["--device", "cpu", "--batch", "1", "--seq", "64", "--reps", "2"] if run.stub else ["--batch", "8"]
        told = json.loads(run.run([python, os.path.join(run.root, "bench/peers/torch_train.py"), "products", "--model", model]
                                  + size, 120))
        rows.append({"name": "%s, matrix products alone" % model, "value": told["tflops"], "unit": "TFLOP/s",
                     "ratio": told["tflops"] * 1e12 / peak_of(run) if peak_of(run) else None})
    return rows


def reductions(path):
    """Of a trace: how long before the step's last reduction its first began, in ms, for each step."""
    with open(path) as file:
        events = json.load(file)["traceEvents"]
    steps = {}
    for event in events:
        if event["name"] == "reduce":
            steps.setdefault(event["args"]["step"], []).append(event["ts"])
    return [(max(at) - min(at)) / 1e3 for at in steps.values() if len(at) > 1]


def overlap(world):
    def item(run):
        trace = os.path.join(run.folder, "overlap-%d.trace.json" % world)
        small = ["--set", "zero_optimization.reduce_bucket_size=20000", "--set", "sherd.exact_bucket_size=true"] if run.stub else []
        row = bench(run, "350m", 1024, "--ranks", str(world), "--set", "zero_optimization.stage=2", "--trace", trace, *small,
                    tokens=4096)
        ahead = sorted(reductions(trace))
        if not ahead:
            raise RuntimeError("the trace has no step with two reductions")
        name = "%s, %d ranks on one GPU" % ("tiny" if run.stub else "350m", world)
        middle = ahead[len(ahead) // 2]
        return [{"name": name + ", exposed communication", "value": row["exposed_comm_ms"], "unit": "ms a step",
                 "ratio": row["exposed_comm_ms"] / row["step_ms"], "note": "ratio: of the step"},
                {"name": name + ", first reduction before the last", "value": middle, "unit": "ms",
                 "ratio": middle / row["backward_ms"] if row["backward_ms"] > 0 else None,
                 "limit": None if run.stub else 0.3, "note": "ratio: of backward; trace in " + trace}]
    return item


# ---- peers

class TorchTrainer:
    """The same decoder in PyTorch, warm and waiting for its turns."""

    def __init__(self, run, model, seq, tokens, *more):
        python = torch_python(run)
        if python is None:
            raise RuntimeError("PyTorch is not installed here")
        env = dict(run.env, TORCHINDUCTOR_CACHE_DIR=os.path.join(run.scratch, "inductor"))
        command = [python, os.path.join(run.root, "bench/peers/torch_train.py"), "train", "--model", model, "--seq", str(seq),
                   "--batch", str(max(1, tokens // seq))] + list(more)
        self.run, self.log = run, open(os.path.join(run.scratch, "torch.log"), "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        self.ready = self.answer()

    def answer(self):
        import select
        if not select.select([self.process.stdout], [], [], max(0.1, self.run.left()))[0]:
            raise TimeoutError()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("torch_train.py ended; %s says why" % self.log.name)
        return json.loads(line)

    def steps(self, n):
        self.process.stdin.write("%d\n" % n)
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def median(values):
    return sorted(values)[len(values) // 2]


def peer(model, seq):
    """Three turns each, one after the other; medians. Memory is what each one's own allocator says at its peak."""
    def item(run):
        tokens, more = TOKENS, []
        if run.stub:
            tokens, more = 64, ["--device", "cpu", "--no-compile"]
        trainer = TorchTrainer(run, "tiny" if run.stub else model, 16 if run.stub else seq, tokens, *more)
        ours, theirs = [], []
        try:
            for _ in range(1 if run.stub else 3):
                theirs.append(trainer.steps(2 if run.stub else 10))
                ours.append(bench(run, model, seq))
        finally:
            trainer.close()
        if ours[0]["parameters"] != theirs[0]["parameters"]:
            raise RuntimeError("other models: %d parameters here, %d there" % (ours[0]["parameters"], theirs[0]["parameters"]))
        name = title(run, model, seq)
        mine, other = median([r["tokens_per_s"] for r in ours]), median([r["tokens_per_s"] for r in theirs])
        rows = [{"name": name + ", PyTorch %s" % trainer.ready["torch"], "value": other, "unit": "tokens/s",
                 "note": "from %.4g to %.4g" % (min(r["tokens_per_s"] for r in theirs), max(r["tokens_per_s"] for r in theirs))},
                {"name": name + ", Sherd", "value": mine, "unit": "tokens/s", "ratio": mine / other,
                 "limit": None if run.stub else PEER_LIMIT,
                 "note": "from %.4g to %.4g" % (min(r["tokens_per_s"] for r in ours), max(r["tokens_per_s"] for r in ours))}]
        if "peak_bytes" in theirs[-1]:
            rows.append({"name": name + ", PyTorch's peak", "value": theirs[-1]["peak_bytes"] / 1e9, "unit": "GB"})
            rows.append({"name": name + ", Sherd's peak", "value": ours[-1]["peak_bytes"] / 1e9, "unit": "GB",
                         "ratio": ours[-1]["peak_bytes"] / theirs[-1]["peak_bytes"], "limit": 1.0, "least": False})
        return rows
    return item


PAIRS = [(model, seq) for model in MODELS for seq in SEQS]
GROUPS = {
    "correct": [("tests", tests), ("same_bits", same_bits), ("sanitizer", sanitizer)],
    "speed": [("update_kernel", update_kernel), ("torch_adamw", torch_adamw), ("ceiling", ceiling)]
    + [("speed_%s_%d" % pair, speed_of(*pair)) for pair in PAIRS] + [("overlap_%d" % n, overlap(n)) for n in (2, 4)],
    "peers": [("peer_%s_%d" % pair, peer(*pair)) for pair in PAIRS],
}
