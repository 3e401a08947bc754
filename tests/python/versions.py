"""Compiles and imports the worker's modules, and sends frames through them, with whatever Python runs this: `make test-python-versions`
does so with those that the npm registry has (Pyodide), where there is no mlx. What comes from mlx and other packages with native code is
an empty stand-in, so this shows that the worker's own code and the standard library agree, and no more."""

import importlib
import importlib.abc
import importlib.machinery
import pathlib
import sys
import warnings
from unittest import mock

ABSENT = ("mlx", "mlx_lm", "resource", "transformers", "huggingface_hub", "tokenizers", "jinja2", "numpy", "llguidance", "safetensors", "regex")


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module):
        pass


def main(root):
    source = pathlib.Path(root, "python", "go_mlx_worker")
    warnings.simplefilter("error")
    files = sorted(source.glob("*.py"))
    for file in files:
        compile(file.read_bytes(), str(file), "exec")
    sys.meta_path.insert(0, StandIns())
    sys.path.insert(0, str(source.parent))
    for file in files:
        if file.stem not in ("__init__", "__main__"):
            importlib.import_module(f"go_mlx_worker.{file.stem}")

    import io

    from go_mlx_worker import frames

    message = {"t": "token", "id": 1, "text": "Größe 🦊", "ids": [0, 2**31 - 1], "logprob": -1.5}
    assert frames.read_frame(io.BytesIO(frames.encode_frame(message))) == message
    try:
        frames.encode_frame({"t": "token", "id": 1, "text": "\ud800"})
    except UnicodeEncodeError:
        pass
    else:
        raise AssertionError("half of a surrogate pair was written")
    print(f"Python {sys.version.split()[0]}: {len(files)} modules compile and load, frames are read as they were written")


if __name__ == "__main__":
    main(*sys.argv[1:])
