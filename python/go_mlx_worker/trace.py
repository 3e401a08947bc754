"""What the layers of a model compute for a prompt, into a safetensors file."""

from contextlib import contextmanager

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from .errors import RequestError


def trace(loaded, request):
    """Runs request["ids"] through the model, in request["rows"] equal rows; request["split"] positions go first, in a
    pass of their own whose KV the second one finds. The file gets float32 of the first row: "layer.N" (what enters the
    first layer, then what each puts out), "logits", and for the layer request["ops_of"] "op.N.NAME", in the order they
    were computed. Returns the number of layers' states."""
    ids = request["ids"]
    loaded.check_ids(ids, "trace")
    layers = getattr(loaded.model, "layers", None)
    if not ids or not layers:
        raise RequestError("bad_request", "trace needs token ids and a model with layers")
    cache, split = make_prompt_cache(loaded.model), request["split"]
    arrays = {}
    for part in [ids[:split], ids[split:]] if split else [ids]:
        states, ops = [], []
        with _recorded(layers, request["ops_of"], states, ops):
            logits = loaded.model(mx.array([part] * request["rows"]), cache=cache)
        found = {f"layer.{i}": state for i, state in enumerate(states)}
        found["logits"] = logits
        found.update({f"op.{i}.{name}": value for i, (name, value) in enumerate(ops)})
        for name, value in found.items():
            value = value[0].astype(mx.float32)
            # Positions are the first axis but in rotated queries and keys, which never come in parts.
            arrays[name] = mx.concatenate([arrays[name], value]) if name in arrays else value
        mx.eval(list(arrays.values()))
    mx.save_safetensors(request["file"], arrays)
    mx.clear_cache()
    return sum(name.startswith("layer.") for name in arrays)


@contextmanager
def _recorded(layers, ops_of, states, ops):
    """Records the outputs of the layers, and of the modules of one of them."""
    changed = []

    def wrap(module, before, after):
        cls = type(module)

        class Recorded(cls):
            def __call__(self, x, *args, **kwargs):
                before(x)
                out = super().__call__(x, *args, **kwargs)
                after(out)
                return out

        changed.append((module, cls))
        module.__class__ = Recorded

    def note(name):
        def after(out):
            if isinstance(out, mx.array):
                count = sum(op == name or op.startswith(name + ".") and op[len(name) + 1 :].isdigit() for op, _ in ops)
                ops.append((name if count == 0 else f"{name}.{count + 1}", out))

        return after

    try:
        for i, layer in enumerate(layers):
            if i == ops_of:
                for name, module in layer.named_modules():
                    if name and not module.children():
                        wrap(module, lambda x: None, note(name))
            output = note("output") if i == ops_of else lambda out: None

            def before(x):
                if not states:
                    states.append(x)

            def after(out, output=output):
                # Some layers return more than the states.
                out = out[0] if isinstance(out, tuple) else out
                states.append(out)
                output(out)

            wrap(layer, before, after)
        yield
    finally:
        for module, cls in changed:
            module.__class__ = cls
