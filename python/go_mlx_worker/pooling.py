"""What follows the hidden states in a folder of the Sentence Transformers' layout (modules.json): pooling, dense layers, normalisation.
The native engine reads the same (native/internal/score/embedder.go)."""

import json
from pathlib import Path

import mlx.core as mx

from .errors import RequestError


class Pooling:
    """A folder without modules.json gets the normed mean."""

    def __init__(self, folder):
        self.last_token, self.normalize = False, True
        self.dense, self.prompts = [], {}
        folder = Path(folder)
        if not (folder / "modules.json").is_file():
            return
        self.normalize = False
        for module in _read(folder / "modules.json", list):
            try:
                kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
            except (TypeError, KeyError, AttributeError) as e:
                raise _broken(f"an entry is no module: {module!r}") from e
            if kind == "Pooling":
                self.last_token = _pools_last_token(path)
            elif kind == "Dense":
                self.dense.append(_Dense(path))
            elif kind == "Normalize":
                self.normalize = True
            elif kind != "Transformer":
                raise _unsupported(f"it has a module {module['type']!r}")
        config = folder / "config_sentence_transformers.json"
        if config.is_file():
            self.prompts = _read(config, dict).get("prompts") or {}
            if not isinstance(self.prompts, dict) or not all(isinstance(p, str) for p in self.prompts.values()):
                raise _broken(f"{config.name}: its prompts are not names with texts")

    def prompt(self, name):
        """The text that goes before each text, for one of the folder's own prompts; "" names none."""
        if not name:
            return ""
        if name not in self.prompts:
            known = "[" + " ".join(json.dumps(p, ensure_ascii=False) for p in sorted(self.prompts)) + "]"
            raise RequestError(
                "invalid_option",
                f"the model has no prompt {json.dumps(name, ensure_ascii=False)}; it has {known if self.prompts else 'none at all'}",
                option="PromptName",
            )
        return self.prompts[name]

    def size(self, hidden):
        """How many values vectors have, of states of so many."""
        for layer in self.dense:
            if layer.takes != hidden:
                raise _broken(f"the dense layer takes {layer.takes} values of the {hidden} before it")
            hidden = layer.gives
        return hidden

    def part(self, h, begin, total):
        """What the states h [n, hidden] of a text of total tokens, of which the first is at begin, have in its pooled state: the sum of
        all parts is that. Other rows of the same pass, and what fills a row up, have no influence on it."""
        h = h.astype(mx.float32)
        if not self.last_token:
            return h.sum(axis=0) / total
        return h[-1] if begin + h.shape[0] == total else mx.zeros(h.shape[-1:])

    def project(self, x):
        """Runs pooled states [B, hidden] through the layers after the pooling."""
        for layer in self.dense:
            x = layer(x)
        return x


class _Dense:
    def __init__(self, folder):
        config = _read(folder / "config.json", dict)
        activation = config.get("activation_function") or ""
        if activation and not activation.endswith(".Identity"):
            raise _unsupported(f"it has a dense layer with {activation}")
        self.takes, self.gives = config.get("in_features"), config.get("out_features")
        try:
            arrays = mx.load(str(folder / "model.safetensors"))
        except (OSError, RuntimeError, ValueError) as e:
            raise _broken(f"{folder.name}: {e}") from e
        wanted = {"linear.weight": (self.gives, self.takes)}
        if config.get("bias"):
            wanted["linear.bias"] = (self.gives,)
        for name, shape in wanted.items():
            found = arrays[name].shape if name in arrays else None
            if found != shape:
                raise _broken(f"{folder.name}: tensor {name} has shape {found}, want {shape}")
        self._weight, self._bias = arrays["linear.weight"], arrays["linear.bias"] if config.get("bias") else None
        mx.eval([a for a in (self._weight, self._bias) if a is not None])

    def __call__(self, x):
        x = x @ self._weight.T
        return (x if self._bias is None else x + self._bias).astype(mx.float32)


def _pools_last_token(folder):
    modes = _read(folder / "config.json", dict)
    on = sorted(name.removeprefix("pooling_mode_") for name, value in modes.items() if name.startswith("pooling_mode_") and value is True)
    if on == ["lasttoken"]:
        return True
    if on == ["mean_tokens"]:
        return False
    raise _unsupported(f"it pools by {on}")


def _read(file, kind):
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise _broken(f"{file.name}: {e}") from e
    if not isinstance(value, kind):
        raise _broken(f"{file.name} is no JSON {'list' if kind is list else 'object'}")
    return value


def _unsupported(reason):
    return RequestError("no_embeddings", reason)


def _broken(reason):
    return RequestError("load_failed", f"modules.json: {reason}")
