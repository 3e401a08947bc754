"""A loaded mlx-lm model: prompts, limits and description."""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import get_total_parameters, load

from .errors import RequestError


class LoadedModel:
    def __init__(self, path, trust_remote_code):
        folder = Path(path)
        # mlx-lm would take a path that does not exist for a name on the hub.
        if not (folder / "config.json").is_file():
            raise RequestError("load_failed", f"{path} is not a model folder: it has no config.json")
        try:
            self.model, self.tokenizer, self.config = load(
                path,
                return_config=True,
                tokenizer_config={"trust_remote_code": trust_remote_code},
            )
        except Exception as e:
            raise RequestError("load_failed", f"{type(e).__name__}: {e}") from e
        self.path = path
        text = self.config.get("text_config", {})
        self.vocab_size = self.config.get("vocab_size") or text.get("vocab_size") or 0
        self.context_length = (
            self.config.get("max_position_embeddings") or text.get("max_position_embeddings") or 0
        )
        self.has_template = self.tokenizer.has_chat_template

    def info(self):
        parameters = dict(tree_flatten(self.model.parameters()))
        floats = [v.dtype for k, v in parameters.items() if k.endswith("norm.weight")]
        quantization = self.config.get("quantization")
        text = self.config.get("text_config", self.config)
        return {
            "architecture": self.config.get("model_type", ""),
            "device": str(mx.default_device()).removeprefix("Device(").removesuffix(")").replace(", ", ":"),
            "layers": len(self.model.layers),
            "hidden_size": text.get("hidden_size") or 0,
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "dtype": str(floats[0]).removeprefix("mlx.core.") if floats else "",
            "quantization": "{bits}-bit, groups of {group_size}".format(**quantization) if quantization else "",
            "parameters": int(get_total_parameters(self.model)),
            "weight_bytes": sum(v.nbytes for v in parameters.values()),
        }

    def encode(self, text, special):
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render_chat(self, messages):
        if not self.has_template:
            raise RequestError("no_chat_template", "model has no chat template")
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as e:
            raise RequestError("bad_request", f"chat template: {e}") from e

    def prompt_ids(self, request):
        """The token ids of any form of prompt, checked against the model's limits."""
        if request.get("messages"):
            ids = self.encode(self.render_chat(request["messages"]), special=False)
        elif request.get("text"):
            ids = self.encode(request["text"], special=True)
        else:
            ids = request.get("ids") or []
        self.check_ids(ids)
        return ids

    def check_ids(self, ids):
        if not ids:
            raise RequestError("empty_prompt", "prompt is empty")
        if self.context_length and len(ids) >= self.context_length:
            raise RequestError(
                "context_length", "prompt is too long", tokens=len(ids), limit=self.context_length
            )
        if self.vocab_size and not all(0 <= i < self.vocab_size for i in ids):
            raise RequestError(
                "bad_request", f"prompt: a token id is outside the model's vocabulary of {self.vocab_size}"
            )


def versions():
    import mlx_lm
    import tokenizers
    import transformers

    from . import PROTOCOL

    return {
        "protocol": PROTOCOL,
        "mlx": mx.__version__,
        "mlx_lm": mlx_lm.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
