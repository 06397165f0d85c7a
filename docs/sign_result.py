#!/usr/bin/env python3
"""Signs a result for millrace's mirror: docs/result.md, "What is signed".

    sign_result.py KEYNAME PRIVATE.pem < result.json > signed.json
"""

import base64
import calendar
import json
import struct
import sys
import time

from cryptography.hazmat.primitives.serialization import load_pem_private_key


def nanoseconds(text):
    """An instant in whole seconds, UTC, as ns since 1970."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) * 10**9


def signed_bytes(r, key):
    value = {
        "float64": lambda v: struct.pack(">d", v),
        "int64": lambda v: struct.pack(">q", v),
        "bool": lambda v: struct.pack(">?", v),
        "string": lambda v: v.encode(),
    }[r["type"]](r["value"])
    fields = [
        r["schema"].encode(),
        r["id"].encode(),
        r["site"].encode(),
        r["target"].encode(),
        struct.pack(">Q", r["version"]),
        r["type"].encode(),
        value,
        r.get("unit", "").encode(),
        struct.pack(">I", {"Good": 0, "Uncertain": 0x40000000, "Bad": 0x80000000}[r["quality"]]),
        struct.pack(">q", nanoseconds(r["computed_at"])),
        struct.pack(">q", nanoseconds(r["valid_from"])),
        struct.pack(">q", nanoseconds(r["valid_until"])),
        r["run"].encode(),
        key.encode(),
    ]
    return b"".join(struct.pack(">I", len(f)) + f for f in fields)


def sign(r, key, private):
    sum64 = base64.b64encode(private.sign(signed_bytes(r, key))).decode()
    return {**r, "signature": {"key": key, "ed25519": sum64}}


if __name__ == "__main__":
    with open(sys.argv[2], "rb") as f:
        private = load_pem_private_key(f.read(), None)
    print(json.dumps(sign(json.load(sys.stdin), sys.argv[1], private), ensure_ascii=False, allow_nan=False))
