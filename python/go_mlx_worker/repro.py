"""python -m go_mlx_worker.repro FILE: runs a quarantined request again, alone and in this process.

It prints what the worker would answer. A fault that ended the worker ends this process in the same way,
with a debugger or faulthandler at hand.
"""

import faulthandler
import json
import sys

from .alone import Alone
from .lists import LISTS
from .model import LoadedModel
from .solo import Solo, needs_solo
from .stream import Stream


def main(path):
    faulthandler.enable()
    with open(path) as f:
        repro = json.load(f)
    print("error reported:", repro["error"], file=sys.stderr)
    loaded = LoadedModel(repro["load"])
    request = repro["request"]
    print("model loaded, request:", {k: v for k, v in request.items() if k != "t"}, file=sys.stderr)
    if request["t"] in LISTS:
        job = LISTS[request["t"]](loaded, request)
        while True:
            try:
                next(job)
            except StopIteration as result:
                print(json.dumps(result.value, default=bytes.hex))
                return
    if request["t"] != "generate":
        print(f"a {request['t']} request: the model is loaded; nothing else to run", file=sys.stderr)
        return
    stream = Stream(loaded, request | {"resume": []})

    def put(message):
        print(json.dumps(message), flush=True)

    alone = Solo(loaded, stream, put) if needs_solo(loaded, request) else Alone(loaded, stream)
    while not stream.finished:
        alone.step(put)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
