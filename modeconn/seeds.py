"""Seeds by hashing."""

import hashlib
import json


def mix(*parts: int | str) -> int:
    """A seed from numbers and names by hashing, so that neighbouring inputs give unrelated seeds. 63 bits."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1
