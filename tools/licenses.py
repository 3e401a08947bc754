"""python tools/licenses.py: prints the licences of everything that an installed go-mlx contains, for LICENSES.txt beside it.

These are the Go modules and Rust crates that are linked into the program, MLX and mlx-c, whose libraries are installed with it, and the
libraries of the chat page. Each text is printed once, after the names that it is for. A part without a licence's text is
named as such; tests/outside demands that there is none."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISSING = "No file with a licence was found."
NAMES = ("licen", "copying", "notice", "unlicense")


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def texts(folder):
    """The texts of the files in a folder, or in its folder of licences, that are licences or notices."""
    files = [f for f in sorted(Path(folder).iterdir()) if f.name.lower().startswith(NAMES)]
    files = [g for f in files for g in (sorted(f.rglob("*")) if f.is_dir() else [f])]
    return [f.read_text("utf-8", errors="replace").strip() for f in files if f.is_file()]


def go_modules():
    form = "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}"
    go = os.environ.get("GO", "go")
    for line in sorted(set(run(go, "list", "-deps", "-f", form, "./cmd/go-mlx").split("\n")) - {""}):
        name, folder = line.split("\t")
        yield name, texts(folder)
    # Distributions keep Go's licence elsewhere; golang.org's modules have the same one.
    own = texts(run(go, "env", "GOROOT").strip())
    yield "Go's standard library", own or ["Its licence is that of the modules of golang.org/x in this file."]


def crates(manifest):
    cargo = os.environ.get("CARGO", "cargo")
    host = next(line[6:] for line in run("rustc", "-vV").split("\n") if line.startswith("host: "))
    answer = run(cargo, "metadata", "--locked", "--format-version", "1", "--filter-platform", host, "--manifest-path", manifest)
    for package in sorted(json.loads(answer)["packages"], key=lambda p: p["name"]):
        if package["source"]:  # not this project's own
            folder = Path(package["manifest_path"]).parent
            # Some crates name their licence only; the text is that of another crate with the same one.
            found = texts(folder) or [f"Licensed under {package['license']}; the text is elsewhere in this file."]
            if package["name"] == "mlx-sys":
                found += texts(folder / "src" / "mlx-c")
            yield f"{package['name']} {package['version']}", found


def mlx():
    site = (ROOT / "build" / "mlx").resolve().parent
    for info in sorted(site.glob("mlx*.dist-info")):
        if not info.name.startswith("mlx_lm"):
            yield info.name.removesuffix(".dist-info"), texts(info / "licenses")
    if libraries := sorted(f.name for f in site.glob("mlx_cpu.libs/*")):
        note = (
            "These libraries come with MLX's wheel: BLAS and LAPACK of netlib.org (modified BSD licence); libgfortran of GCC (GPL 3 "
            "with the GCC Runtime Library Exception) and libquadmath of GCC (LGPL 2.1 or later)."
        )
        yield ", ".join(libraries), [note]


def main():
    parts = [*mlx(), *crates("cpp/mlx-c-source/Cargo.toml"), *crates("internal/tokenizer/rust/Cargo.toml"), *go_modules()]
    names = {}
    for name, found in parts:
        for text in found or [MISSING]:
            of = names.setdefault(text, [])
            if name not in of:
                of.append(name)
    for text, of in names.items():
        print("=" * 100, "\n".join(of), "-" * 100, text, sep="\n", end="\n\n")
    print((ROOT / "internal/page/static/vendor/LICENSES.txt").read_text("utf-8"))


main()
