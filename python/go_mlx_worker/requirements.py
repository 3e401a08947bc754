"""What the worker uses of mlx-lm and transformers, looked for before anything else is imported: they promise few of these names, and a
version that moved one, or has it not yet, is to be told in one line."""

import importlib
import sys
from importlib import metadata

# module -> names that the worker imports from it
NAMES = {
    "mlx_lm.generate": [
        "BatchGenerator",
        "generate_step",
        "generation_stream",
        "make_text_state_machine",
        "speculative_generate_step",
    ],
    "mlx_lm.models.cache": ["LRUPromptCache", "RotatingKVCache", "TokenBuffer", "make_prompt_cache"],
    "mlx_lm.sample_utils": [
        "apply_min_p",
        "apply_top_k",
        "apply_top_p",
        "apply_xtc",
        "greedy_sampler",
        "make_logits_processors",
    ],
    "mlx_lm.utils": ["get_total_parameters", "load", "load_config", "load_model"],
    "transformers": ["PreTrainedTokenizerBase", "tokenization_utils_base"],
    "transformers.tokenization_utils_base": ["render_jinja_template"],
    "transformers.utils.chat_template_utils": ["_get_control_token_patterns", "encode_marked_chat", "mark_control_tokens"],
}
# Of mlx_lm.generate: class -> attributes that its __init__ must set
ATTRIBUTES = {"BatchGenerator": ["_generation_batch"], "GenerationBatch": ["uids", "_next_tokens", "_next_logprobs"]}
# module -> class -> methods
METHODS = {
    "mlx_lm.generate": {"BatchGenerator": ["insert", "remove", "next", "extract_cache"]},
    "transformers": {"PreTrainedTokenizerBase": ["_encode_without_added_tokens", "_get_control_tokens"]},
}


def find(name):
    """A module, or None. mlx_lm.generate is also a function, so the attribute of the package is not what is wanted."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not e.name.startswith(("mlx_lm.", "transformers.")):
            raise  # another package is missing; its name is in the error
        return None
    return sys.modules[name]


def missing(find=find):
    out = []
    for module, names in NAMES.items():
        found = find(module)
        out += [f"{module}.{n}" for n in names if not hasattr(found, n)]
    generate = find("mlx_lm.generate")
    for name, attributes in ATTRIBUTES.items():
        names = getattr(getattr(getattr(generate, name, None), "__init__", None), "__code__", None)
        out += [f"{name}.{a}" for a in attributes if names is None or a not in names.co_names]
    for module, classes in METHODS.items():
        for name, methods in classes.items():
            out += [f"{name}.{m}" for m in methods if not hasattr(getattr(find(module), name, None), m)]
    return out


def check():
    lost = missing()
    for package in ("transformers", "mlx-lm"):
        if names := [name for name in lost if name.startswith("transformers") == (package == "transformers")]:
            sys.exit(
                f"go_mlx_worker: {package} {metadata.version(package)} lacks what the worker needs ({', '.join(names)}): "
                "install the version that requirements.txt names"
            )
