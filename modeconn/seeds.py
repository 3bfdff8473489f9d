"""Random seeds by hashing."""

import hashlib
import json


def mix(*parts: int | str) -> int:
    """Derive a seed of 63 bits from numbers and names.

    By SHA-256, so that neighbouring inputs give unrelated seeds: with `seed + epoch`, epoch 1 of seed 0 would be epoch
    0 of seed 1.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1
