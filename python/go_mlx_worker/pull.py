"""python -m go_mlx_worker.pull NAME [--revision R] [--file F]: downloads a model into huggingface_hub's cache.

Progress goes to stderr; the last line of stdout is a JSON object: {"path": ...} or {"error": code, "message": ...}.
"""

import argparse
import errno
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)  # the user asked for a download
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP resumes, and works with every endpoint

from huggingface_hub import HfApi, constants, hf_hub_download  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from . import resume  # noqa: E402

resume.install()

# What engines read. Weights in other forms (PyTorch, ONNX, originals) would only cost time and space.
PATTERNS = ["*.json", "*.jinja", "*.safetensors", "*.gguf", "*.model", "*.tiktoken", "*.txt", "*.py", "*.md", "LICENSE*"]
ORIGINALS = ["original/*", "metal/*", "onnx/*", "consolidated*"]
ATTEMPTS = 5
# What a cut connection loses at most: the library goes on after the last whole chunk.
constants.DOWNLOAD_CHUNK_SIZE = 256 << 10


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def wanted(siblings, file):
    """The files to fetch. Of a model with weights in safetensors, GGUF files are left out unless one is named."""
    names = [s.rfilename for s in siblings]
    if file:
        if file not in names:
            near = ", ".join(n for n in names if n.endswith(".gguf")) or "no .gguf file"
            raise Refused("missing", f"the model has no file {file}; it has {near}")
        stem = file.rsplit("-00001-of-", 1)[0] if "-00001-of-" in file else None
        return [n for n in names if n == file or stem and n.startswith(stem + "-0") and n.endswith(".gguf")]
    names = [n for n in names if any(fnmatch.fnmatch(n, p) for p in PATTERNS) and not any(fnmatch.fnmatch(n, p) for p in ORIGINALS)]
    gguf = [n for n in names if n.endswith(".gguf")]
    if any(n.endswith(".safetensors") for n in names):
        return [n for n in names if n not in gguf]
    if len(gguf) > 1 and not all("-of-" in n for n in gguf):
        raise Refused("which", "the model has several GGUF files; name one, as in ORG/NAME:FILE: " + ", ".join(gguf))
    return names


def check_space(siblings, names, folder):
    """Before anything is fetched."""
    needed = 0
    for s in siblings:
        blob = folder / "blobs" / (s.lfs.sha256 if s.lfs else (s.blob_id or "-"))
        if s.rfilename in names and not blob.exists():
            needed += s.size or 0
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise Refused("space", f"{needed / 1e9:.2f} GB are to be fetched and {free / 1e9:.2f} GB are free in {place}: make room, or set HF_HOME to another disk")
    return needed


def check_hashes(siblings, names, path):
    """A blob of LFS is named by its hash; what does not match it is removed, so that the next try fetches it again."""
    for s in siblings:
        if s.rfilename not in names or not s.lfs:
            continue
        link = path / s.rfilename
        blob = link.resolve()
        mark = blob.parent.parent / ".checked" / s.lfs.sha256
        if mark.exists():
            continue
        with open(blob, "rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(f)
        if digest != s.lfs.sha256:
            blob.unlink()
            link.unlink(missing_ok=True)
            raise Refused("hash", f"{s.rfilename} came with other contents than the hub announced (SHA-256 {digest}): it was removed, pull again")
        mark.parent.mkdir(exist_ok=True)
        mark.touch()


def _digest(f):
    h = hashlib.sha256()
    while data := f.read(1 << 20):
        h.update(data)
    return h.hexdigest()


def pull(name, revision, file):
    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    names = wanted(info.siblings, file)
    folder = Path(constants.HF_HUB_CACHE) / ("models--" + name.replace("/", "--"))
    print(f"{name}: {len(names)} files, {check_space(info.siblings, names, folder) / 1e6:.1f} MB to fetch", file=sys.stderr)
    paths = [Path(fetch(name, revision, n)) for n in names]
    path = paths[0].parents[len(Path(names[0]).parts) - 1]
    check_hashes(info.siblings, names, path)
    return {"path": str(path / file) if file else str(path), "commit": info.sha}


def fetch(name, revision, file):
    """The library goes on by itself where a connection was cut, a few times; the next try, and the next run, go on from there."""
    for attempt in range(ATTEMPTS):
        try:
            return hf_hub_download(name, file, revision=revision)
        except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except (TypeError, AttributeError, LookupError, NameError):
            raise  # a mistake here or in the library, and no trouble of the network
        except Exception as e:
            if attempt == ATTEMPTS - 1 or isinstance(e, OSError) and e.errno == errno.ENOSPC:
                raise
            print(f"{file}: {type(e).__name__}; trying again", file=sys.stderr)
            time.sleep(0.1 * attempt)


def explain(e, name):
    login = "log in with `huggingface-cli login` or set HF_TOKEN"
    if isinstance(e, GatedRepoError):
        return "gated", f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name} and {login}"
    if isinstance(e, RevisionNotFoundError):
        return "missing", f"{name} has no such revision"
    if isinstance(e, (RepositoryNotFoundError, EntryNotFoundError)) and not isinstance(e, LocalEntryNotFoundError):
        return "missing", f"there is no model {name}, or it is private: check the name, or {login}"
    if isinstance(e, OSError) and e.errno == errno.ENOSPC:
        return "space", "the disk is full: make room, or set HF_HOME to another disk"
    if isinstance(e, OSError) and "Consistency check failed" in str(e):
        return "length", "a file came with another length than the hub announced, again and again: try later; what came is kept"
    if isinstance(e, HfHubHTTPError) and e.response is not None and e.response.status_code in (401, 403):
        return "gated", f"the hub refuses {name} ({e.response.status_code}): {login}"
    return "failed", f"{type(e).__name__}: {e}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--revision", default="main")
    parser.add_argument("--file")
    args = parser.parse_args()
    try:
        out = pull(args.name, args.revision, args.file)
    except Refused as e:
        out = {"error": e.code, "message": str(e)}
    except Exception as e:
        code, message = explain(e, args.name)
        out = {"error": code, "message": message}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
