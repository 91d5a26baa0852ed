# SPDX-License-Identifier: MIT
"""Sherd's safetensors against the format's own library: each reads what the other has written, to the byte.

usage: safetensors_python.py DUMP WORKDIR
Exit code 77 where the Python package safetensors (or numpy) is missing.
"""
import json
import os
import random
import struct
import subprocess
import sys

try:
    import numpy as np
    from safetensors import SafetensorError, deserialize, safe_open
    from safetensors.numpy import load_file, save_file
except ImportError:
    print("skipped: no safetensors or numpy for this Python (pip install safetensors numpy)")
    sys.exit(77)

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
         "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


def printed(dump, path):
    text = subprocess.run([dump, "print", path], check=True, capture_output=True, text=True).stdout
    *lines, last = text.splitlines()
    out = {}
    for line in lines:
        name, dtype, shape, *data = line.split(" ")
        out[bytes.fromhex(name).decode()] = (dtype, json.loads(shape), bytes.fromhex(data[0] if data else ""))
    return out, last.removeprefix("format ")


def check_ours_there(dump, path):
    subprocess.run([dump, "write", path], check=True)
    theirs = {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in deserialize(open(path, "rb").read())}
    ours, form = printed(dump, path)
    assert len(theirs) == 8 and theirs == ours, (theirs, ours)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt €"} and form == "pt €", file.metadata()


def check_theirs_here(dump, path, seed):
    rng = random.Random(seed)
    tensors, expected = {}, {}
    for i in range(rng.randrange(0, 12)):
        dtype = rng.choice(sorted(TYPES))
        shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randrange(0, 5))]
        count = int(np.prod(shape, dtype=np.int64))
        raw = np.array([rng.randrange(2 if dtype == "BOOL" else 256) for _ in range(count * np.dtype(TYPES[dtype]).itemsize)],
                       dtype=np.uint8)
        name = f"layer.{i}." + "".join(rng.choice('abc"\\é€\n\t /') for _ in range(6))
        tensors[name] = raw.view(TYPES[dtype]).reshape(shape)
        expected[name] = (dtype, shape, raw.tobytes())
    save_file(tensors, path, metadata={"format": "np"} if seed % 2 else None)
    ours, form = printed(dump, path)
    assert ours == expected, (ours, expected)
    assert form == ("np" if seed % 2 else ""), form
    for name, value in load_file(path).items():
        assert value.tobytes() == expected[name][2]


def accepts_there(path):
    try:
        deserialize(open(path, "rb").read())
        return True
    except SafetensorError:
        return False


def check_refusals(dump, path):
    """What their reader refuses, ours refuses too."""
    good = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    bad = [
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, 8),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 9),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 7),
        ({"a": good["a"], "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        ({"a": {"dtype": "X32", "shape": [2], "data_offsets": [0, 8]}}, 8),
        ({"__metadata__": {"a": 1}}, 0),
    ]
    for header, data in [(good, 8)] + bad:
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + bytes(data))
        here = subprocess.run([dump, "print", path], capture_output=True).returncode == 0
        assert here == accepts_there(path) == (header is good), (header, data, here)


def main():
    dump, work = sys.argv[1:3]
    os.makedirs(work, exist_ok=True)
    path = os.path.join(work, "a.safetensors")
    check_ours_there(dump, path)
    for seed in range(25):
        check_theirs_here(dump, path, seed)
    check_refusals(dump, path)
    print("25 files of theirs, one of ours, 8 headers: the same on both sides")


main()
