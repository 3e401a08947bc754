"""python -m go_mlx_worker.pull NAME [--revision R] [--file F]: downloads a model into huggingface_hub's cache.

Progress goes to stderr; the last line of stdout is a JSON object: {"path": ...} or {"error": code, "message": ...}.
"""

import argparse
import errno
import fnmatch
import hashlib
import json
import os
import re
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
OTHER_WEIGHTS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.onnx", "*.msgpack", "*.npz"]
PATTERNS = ["*.json", "*.jinja", "*.safetensors", "*.gguf", "*.model", "*.tiktoken", "*.txt", "*.py", "*.md", "LICENSE*"]
ORIGINALS = ["original/*", "metal/*", "onnx/*", "consolidated*"]
ATTEMPTS = 5
PATIENCE = 60  # seconds that a Retry-After may ask for at most
# What a cut connection loses at most: the library goes on after the last whole chunk.
constants.DOWNLOAD_CHUNK_SIZE = 256 << 10


# Why a file cannot be made.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


# What huggingface_hub speaks HTTP with, by version. Their errors that are none of the hub's answers are the network's.
HTTP_LIBRARIES = ("httpx", "requests")


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def matches(name, patterns):
    return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(name.lower(), p) for p in patterns)


def wanted(siblings, file):
    """The files to fetch, and the one that is the model if it is one file. Of a model with weights in safetensors, GGUF files are
    left out unless one is named."""
    names = [s.rfilename for s in siblings]
    if file:
        if file not in names:
            near = ", ".join(n for n in names if n.lower().endswith(".gguf")) or "no .gguf file"
            raise Refused("missing", f"the model has no file {file}; it has {near}")
        return [n for n in names if n == file or n in parts_of(file, names)], file
    names = [n for n in names if matches(n, PATTERNS) and not matches(n, ORIGINALS)]
    gguf = [n for n in names if n.lower().endswith(".gguf")]
    if any(n.endswith(".safetensors") for n in names):
        return [n for n in names if n not in gguf], None
    # What is a model by itself: no later part of one, and no vision part of another.
    models = [n for n in gguf if not re.search(r"-\d{5}-of-\d{5}\.gguf$", n.lower()) or "-00001-of-" in n]
    models = [n for n in models if not n.rsplit("/", 1)[-1].lower().startswith("mmproj")]
    if len(models) > 1:
        raise Refused("which", "the model has several GGUF files; name one, as in ORG/NAME:FILE: " + ", ".join(models))
    if not models:
        there = ", ".join(s.rfilename for s in siblings if matches(s.rfilename, OTHER_WEIGHTS)) or "no weights at all"
        raise Refused("missing", f"it has neither safetensors nor a GGUF file, which is what can be loaded; it has {there}")
    return names, models[0] if "/" in models[0] else None


def parts_of(file, names):
    """All parts of a model in several GGUF files, of which the first is named."""
    stem, split, rest = file.rpartition("-00001-of-")
    return [n for n in names if split and re.fullmatch(re.escape(stem) + r"-\d{5}-of-" + re.escape(rest), n)]


def check_names(info, names):
    """A hub is believed about contents, whose hashes it tells, and not about where they go."""
    for n in names:
        if n.startswith("/") or "\\" in n or "\0" in n or ".." in n.split("/"):
            raise resume.UnsafeName(f"the hub lists a file that would lie outside of the model's folder: {n[:80]!r}")
    for name in [info.sha or "", *(s.lfs.sha256 for s in info.siblings if s.lfs), *(s.blob_id for s in info.siblings if s.blob_id)]:
        if not resume.safe(name):
            raise resume.UnsafeName(f"the hub sent a hash that is none: {name[:80]!r}")


def check_space(siblings, names, folder):
    """Before anything is fetched."""
    needed = 0
    for s in siblings:
        blob = folder / "blobs" / (s.lfs.sha256 if s.lfs else (s.blob_id or "-"))
        if s.rfilename in names and not blob.exists():
            partial = resume.partial_of(blob)
            needed += max(0, (s.size or 0) - (partial.stat().st_size if partial.is_file() else 0))
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise Refused("space", f"{needed / 1e9:.2f} GB are to be fetched and {free / 1e9:.2f} GB are free in {place}: make room, or set HF_HOME to another disk")
    return needed


def check_hashes(siblings, names, folder, path):
    """A blob of LFS is named by its hash; what does not match it is removed, so that the next try fetches it again."""
    for s in siblings:
        if s.rfilename not in names or not s.lfs:
            continue
        link = path / s.rfilename
        blob = link.resolve()
        mark = folder / ".checked" / s.lfs.sha256
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
    info = patiently(lambda: HfApi().model_info(name, revision=revision, files_metadata=True))
    names, model = wanted(info.siblings, file)
    check_names(info, names)
    folder = Path(constants.HF_HUB_CACHE) / ("models--" + name.replace("/", "--"))
    print(f"{name}: {len(names)} files, {check_space(info.siblings, names, folder) / 1e6:.1f} MB to fetch", file=sys.stderr)
    # All of one commit, also if the branch moves meanwhile; and the branch leads there when everything is there.
    for n in names:
        fetch(name, info.sha, n)
    path = folder / "snapshots" / info.sha
    check_hashes(info.siblings, names, folder, path)
    if revision != info.sha:
        point(folder / "refs" / revision, info.sha)
    return {"path": str(path / model) if model else str(path), "commit": info.sha}


def point(ref, commit):
    ref.parent.mkdir(parents=True, exist_ok=True)
    new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    new.write_text(commit)
    new.replace(ref)


def patiently(call):
    """Asks again where the hub is busy, after the time that it names."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except HfHubHTTPError as e:
            status = e.response.status_code if e.response is not None else 0
            if status not in (429, 500, 502, 503, 504) or attempt == ATTEMPTS - 1:
                raise
            asked = e.response.headers.get("Retry-After", "")
            seconds = min(int(asked), PATIENCE) if asked.isdigit() else 0.2 * 2**attempt
            print(f"the hub is busy ({status}); asking again in {seconds:g} s", file=sys.stderr)
            time.sleep(seconds)


def fetch(name, commit, file):
    """The library goes on by itself where a connection was cut, a few times; the next try, and the next run, go on from there."""
    for attempt in range(ATTEMPTS):
        try:
            return hf_hub_download(name, file, revision=commit)
        except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, resume.UnsafeName):
            raise
        except (TypeError, AttributeError, LookupError, NameError):
            raise  # a mistake here or in the library, and no trouble of the network
        except Exception as e:
            if attempt == ATTEMPTS - 1 or isinstance(e, OSError) and e.errno in (errno.ENOSPC, *UNWRITABLE):
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
    if isinstance(e, OSError) and e.errno in UNWRITABLE and e.filename:
        return "cache", f"{constants.HF_HUB_CACHE} cannot be written ({e.strerror}: {e.filename}): set HF_HOME to a folder of your own"
    if isinstance(e, resume.UnsafeName):
        return "unsafe", str(e)
    if isinstance(e, OSError) and "Consistency check failed" in str(e):
        return "length", "a file came with another length than the hub announced, again and again: try later; what came is kept"
    if isinstance(e, HfHubHTTPError) and e.response is not None and e.response.status_code == 429:
        return "busy", "the hub answers too many requests (429): wait some minutes and pull again; what came is kept"
    if isinstance(e, HfHubHTTPError) and e.response is not None and e.response.status_code in (401, 403):
        return "gated", f"the hub refuses {name} ({e.response.status_code}): {login}"
    if not isinstance(e, HfHubHTTPError) and type(e).__module__.startswith(HTTP_LIBRARIES):
        return "network", (
            f"{constants.ENDPOINT} cannot be reached ({type(e).__name__}: {e}): check the network, HF_ENDPOINT if it is set, and "
            "HTTPS_PROXY if there is a proxy"
        )
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
