"""What the worker uses of mlx-lm beyond its public names, looked for before any request depends on it."""

import sys
from importlib import metadata

from mlx_lm import generate as _  # noqa: F401: the package's attribute is the function, the module is in sys.modules

_generate = sys.modules["mlx_lm.generate"]

# class -> attributes that its __init__ must set
ATTRIBUTES = {"BatchGenerator": ["_generation_batch"], "GenerationBatch": ["uids", "_next_tokens", "_next_logprobs"]}
METHODS = {"BatchGenerator": ["insert", "remove", "next", "extract_cache"]}


def missing(module=_generate):
    out = []
    for name, attributes in ATTRIBUTES.items():
        names = getattr(getattr(getattr(module, name, None), "__init__", None), "__code__", None)
        out += [f"{name}.{a}" for a in attributes if names is None or a not in names.co_names]
    for name, methods in METHODS.items():
        out += [f"{name}.{m}" for m in methods if not hasattr(getattr(module, name, None), m)]
    if not hasattr(module, "generation_stream"):
        out.append("generation_stream")
    return out


def check():
    if lost := missing():
        sys.exit(
            f"go_mlx_worker: mlx-lm {metadata.version('mlx-lm')} has moved what batching needs ({', '.join(lost)}): "
            "install the version that requirements.txt names"
        )
