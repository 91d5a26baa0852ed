# SPDX-License-Identifier: MIT
"""Trains a random Llama from a Hugging Face-style safetensors file by `sherd train`, and the same by PyTorch in fp32, and
compares the losses of 20 steps, with AdamW and with SGD.

usage: train_torch.py SHERD WORKDIR

Everything but the command's log is made here: the shape, the file (written by hand, in fp32, bf16 and fp16), the tokens, the
order of the sequences (docs/command.md), the decoder, weight decay on matrices only, clipping, the schedule. Bound: 1e-5 of the
loss. Exit code 77 where PyTorch is missing.
"""
import json
import math
import os
import struct
import subprocess
import sys

try:
    import numpy as np
    import torch
except ImportError:
    print("skipped: PyTorch is not installed (Debian: python3-torch)")
    sys.exit(77)

torch.set_num_threads(1)
BOUND, STEPS, SEQ, SEED = 1e-5, 20, 24, 5
SHAPE = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 48, "intermediate_size": 100,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 331, "rms_norm_eps": 1e-6,
         "rope_theta": 5000.0, "tie_word_embeddings": False}
MASK = (1 << 64) - 1


# ---- the file

def weights():
    """Hugging Face's names and shapes; spread wider than a first initialisation, norms away from 1."""
    torch.manual_seed(SEED)
    h, wide, vocab = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    kv = h // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, h), "lm_head.weight": (vocab, h), "model.norm.weight": (h,)}
    for i in range(SHAPE["num_hidden_layers"]):
        layer = "model.layers.%d." % i
        for name, shape in (("self_attn.q_proj", (h, h)), ("self_attn.k_proj", (kv, h)), ("self_attn.v_proj", (kv, h)),
                            ("self_attn.o_proj", (h, h)), ("mlp.gate_proj", (wide, h)), ("mlp.up_proj", (wide, h)),
                            ("mlp.down_proj", (h, wide)), ("input_layernorm", (h,)), ("post_attention_layernorm", (h,))):
            shapes[layer + name + ".weight"] = shape
    return {n: 1 + 0.1 * torch.randn(s) if len(s) == 1 else 0.08 * torch.randn(s) for n, s in sorted(shapes.items())}


TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def raw(tensor):
    return (tensor.view(torch.int16) if tensor.element_size() == 2 else tensor).numpy().tobytes()


def write_safetensors(path, tensors, kind):
    header, at, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name, tensor in tensors.items():
        blob = raw(tensor.to(TYPES[kind]).contiguous())
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_tokens(path, count):
    rng = np.random.RandomState(SEED)
    steps = rng.randint(0, 7, count)  # a walk, so that there is something to learn
    tokens = (np.cumsum(steps) * 3 % SHAPE["vocab_size"]).astype("<u2")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, count
    with open(path, "wb") as out:
        out.write(header.tobytes() + tokens.tobytes())
    return tokens.astype(np.int64)


# ---- the order of sequences

def splitmix(state):
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = state
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return state, z ^ z >> 31


def epoch(number, windows, seed):
    """Inside-out shuffle; a draw from the incomplete last run of i + 1 values is drawn again."""
    _, state = splitmix(seed)
    state ^= number * 0xD1342543DE82EF95 & MASK
    order = [0] * windows
    for i in range(windows):
        limit, value = MASK - MASK % (i + 1), MASK
        while value >= limit:
            state, value = splitmix(state)
        k = value % (i + 1)
        order[i] = order[k]
        order[k] = i
    return order


def batch_of(tokens, step, size):
    windows, out = (len(tokens) - 1) // SEQ, []
    for position in range(step * size, (step + 1) * size):
        at = epoch(position // windows, windows, 1)[position % windows] * SEQ
        out.append(tokens[at: at + SEQ + 1])
    return torch.tensor(np.stack(out))


# ---- the decoder

def norm(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + SHAPE["rms_norm_eps"]) * w


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def loss_of(p, batch):
    heads, kv = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
    dim, tokens = SHAPE["hidden_size"] // heads, batch[:, :-1]
    angle = torch.outer(torch.arange(SEQ, dtype=torch.float64),
                        SHAPE["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)).repeat(1, 2)
    cos, sin = angle.cos().float(), angle.sin().float()
    mask = torch.full((SEQ, SEQ), -math.inf).triu(1)
    x = torch.nn.functional.embedding(tokens, p["model.embed_tokens.weight"])
    for i in range(SHAPE["num_hidden_layers"]):
        w = {n: p["model.layers.%d.%s.weight" % (i, n)] for n in
             ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
              "mlp.down_proj", "input_layernorm", "post_attention_layernorm")}
        h = norm(x, w["input_layernorm"])
        q, k, v = ((h @ w["self_attn.%s_proj" % n].T).unflatten(-1, (-1, dim)).transpose(1, 2) for n in "qkv")
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        attended = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(dim) + mask, -1) @ v
        x = x + attended.transpose(1, 2).flatten(2) @ w["self_attn.o_proj"].T
        h = norm(x, w["post_attention_layernorm"])
        x = x + (torch.nn.functional.silu(h @ w["mlp.gate_proj"].T) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    logits = norm(x, p["model.norm.weight"]) @ p["lm_head.weight"].T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def train_torch(tensors, tokens, case):
    p = {n: t.clone().requires_grad_(True) for n, t in tensors.items()}
    groups = [{"params": [t for t in p.values() if t.dim() > 1], "weight_decay": case["decay"]},
              {"params": [t for t in p.values() if t.dim() == 1], "weight_decay": 0.0}]
    if case["type"] == "SGD":
        optimizer = torch.optim.SGD(groups, lr=case["lr"], momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, lr=case["lr"], betas=(0.9, 0.95), eps=1e-8)
    losses, clipped = [], 0
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = case["lr"] * min(step, 5) / 5  # WarmupLR, linear, 5 steps
        optimizer.zero_grad()
        loss = loss_of(p, batch_of(tokens, step, case["batch"]))
        loss.backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(list(p.values()), case["clip"])) > case["clip"]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, clipped


# ---- the command

def train_sherd(sherd, case, more, log):
    params = {"lr": case["lr"], "weight_decay": case["decay"]}
    params.update({"momentum": 0.9} if case["type"] == "SGD" else {"betas": [0.9, 0.95], "eps": 1e-8})
    config = {"train_batch_size": case["batch"], "gradient_clipping": case["clip"],
              "optimizer": {"type": case["type"], "params": params},
              "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": case["lr"], "warmup_num_steps": 5,
                                                           "warmup_type": "linear"}}}
    with open("ds.json", "w") as out:
        json.dump(config, out)
    command = [sherd, "train", "--model", "config.json", "--data", "tokens.bin", "--config", "ds.json", "--seq", str(SEQ),
               "--threads", "1", "--log", log] + more
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=100)
    assert done.returncode == 0, done.stdout
    records = [json.loads(line) for line in open(log)]
    return [r["loss"] for r in records[:-1]], records[-1]["param_hash"]


def compare(sherd, tensors, tokens, case):
    want, clipped = train_torch(tensors, tokens, case)
    for more in case["runs"]:
        got, _ = train_sherd(sherd, case, ["--init", "model.safetensors", "--steps", str(STEPS)] + more, "run.jsonl")
        off = max(abs(a - b) / b for a, b in zip(got, want))
        ok = len(got) == STEPS and off <= BOUND and want[-1] < want[0] - 0.1
        print("%-4s %s %s: loss %.6f to %.6f, %d of %d steps clipped, off by %.1e at most"
              % ("ok" if ok else "FAIL", case["type"], " ".join(more), want[0], want[-1], clipped, STEPS, off))
        if not ok:
            return 1
    return 0 if 0 < clipped < STEPS else 1


def narrow_files_widen(sherd, tensors, case):
    """A file in 16 bits, and one in fp32 of the same values, start alike to the bit."""
    failed = 0
    for kind in ("BF16", "F16"):
        write_safetensors("narrow.safetensors", tensors, kind)
        write_safetensors("wide.safetensors", {n: t.to(TYPES[kind]).float() for n, t in tensors.items()}, "F32")
        hashes = [train_sherd(sherd, case, ["--init", f, "--steps", "2"], "run.jsonl")[1]
                  for f in ("narrow.safetensors", "wide.safetensors", "model.safetensors")]
        ok = hashes[0] == hashes[1] != hashes[2]
        print("%-4s a file in %s starts as one in fp32 of the same values" % ("ok" if ok else "FAIL", kind))
        failed += not ok
    return failed


CASES = [
    {"type": "AdamW", "lr": 3e-3, "decay": 0.1, "clip": 1.7, "batch": 8,
     "runs": [[], ["--ranks", "2", "--set", "zero_optimization.stage=2", "--set", "gradient_accumulation_steps=2"]]},
    {"type": "SGD", "lr": 0.3, "decay": 0.01, "clip": 2.0, "batch": 6,
     "runs": [["--ranks", "3", "--set", "zero_optimization.stage=1"]]},
]


def main():
    sherd, work = os.path.abspath(sys.argv[1]), sys.argv[2]
    os.makedirs(work, exist_ok=True)
    os.chdir(work)
    with open("config.json", "w") as out:
        json.dump(SHAPE, out)
    tensors, tokens = weights(), write_tokens("tokens.bin", 37 * SEQ + 1)
    write_safetensors("model.safetensors", tensors, "F32")
    failed = sum(compare(sherd, tensors, tokens, case) for case in CASES)
    failed += narrow_files_widen(sherd, tensors, CASES[0])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
