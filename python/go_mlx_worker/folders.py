"""Model folders: what is in them, and how libraries that read names as patterns or as UTF-8 get to them."""

import glob
import hashlib
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .errors import RequestError, encodable

# The fingerprint covers all of a file of so many bytes, and of a larger one this many blocks of this many bytes.
WHOLE = 64 << 20
BLOCKS, BLOCK = 64, 4096


def check_folder(path, file, what):
    # mlx-lm would take a path that does not exist for a name on the hub.
    if not Path(path, file).is_file():
        raise RequestError("load_failed", f"{path} is not a {what}: it has no {file}")


@contextmanager
def plain_paths(*folders):
    """The folders under names that any library can read: a name with a bracket would be taken for a pattern, and one that is
    not UTF-8 cannot be given to the tokenizer's library."""
    with ExitStack() as stack:
        yield [
            _plain(folder, stack) if folder and (glob.has_magic(folder) or not encodable(folder)) else folder for folder in folders
        ]


def _plain(folder, stack):
    # Linux has a name for every open file, and that is gone with the process, however this ends.
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, opened)
    name = f"/proc/self/fd/{opened}"
    if Path(name).is_dir():
        return name
    temp = stack.enter_context(tempfile.TemporaryDirectory(prefix="go-mlx-"))
    link = Path(temp, "model")
    link.symlink_to(os.path.abspath(folder), target_is_directory=True)
    return str(link)


# What mlx-lm and transformers read of a model's folder.
READ = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")


def fingerprint(*folders):
    """Names what a model was loaded from: two loads with the same fingerprint have the same weights, tokenizer and template.
    Of very large files the size, the times of the last change and blocks from all over the file count; of others everything."""
    digest = hashlib.sha256()
    for folder in folders:
        digest.update(b"\0folder\0" if folder else b"\0none\0")
        for part in [Path(folder), *_modules(folder)] if folder else []:
            _add_all(digest, part)
    return digest.hexdigest()[:32]


def _modules(folder):
    """The folders below a model's that hold what follows its states: layers with weights of their own."""
    return sorted(p.parent for p in Path(folder).glob("*/config.json")) if Path(folder, "modules.json").is_file() else []


def _add_all(digest, folder):
    for file in sorted(folder.iterdir()):
        if file.suffix in READ and file.is_file():
            digest.update(os.fsencode(file.name) + b"\0")
            _add(digest, file)


def _add(digest, path):
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        digest.update(b"%d\0" % size)
        if size <= WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        # The second of these times cannot be set to what it was.
        digest.update(b"%d %d\0" % (status.st_mtime_ns, status.st_ctime_ns))
        for i in range(BLOCKS):
            file.seek(i * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
