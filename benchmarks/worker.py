"""A process that measures: prepares, says that it is ready, waits for the word, works, says what it did.

python -m benchmarks.worker benchmarks.floor:matrix_products '{"index": 0, "size": 256, "seconds": 1}'
"""

import importlib
import json
import os
import sys
import time

from modeconn.execution.fork_server import end_with_parent


def main() -> None:
    """Call the function with the options; what it returns is what is timed."""
    end_with_parent()
    place, options = sys.argv[1:]
    module, _, name = place.partition(":")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anyone prints is no answer
    measure = getattr(importlib.import_module(module), name)(**json.loads(options))
    print("ready", file=answers, flush=True)
    if not sys.stdin.readline():
        return  # whoever asked is gone
    begin = time.perf_counter()
    found = measure()
    seconds = time.perf_counter() - begin
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    print(json.dumps({"seconds": seconds, "threads": threads, **found}), file=answers, flush=True)


if __name__ == "__main__":
    main()
