#!/bin/sh
# Looks at what an earlier make has left in .venv and build, and takes away what is of no use any more, so that make makes it again: what holds the
# path of this folder, where the folder was moved or copied since, and the note that .venv is ready, where its Python has gone or is another one.
# build/place has the path. The Makefile runs this whenever it is read.
unset CDPATH PYTHONHOME
cd "$(dirname "$0")/.." || exit
[ ! -L build ] || exit 0 # it is somebody else's
here=$(pwd -P)
place=$(cat build/place 2>/dev/null)
# CMake notes it too, in folders that are older than build/place.
[ -n "$place" ] || place=$(sed -n 's|^CMAKE_CACHEFILE_DIR:INTERNAL=\(.*\)/build/mlx-c$|\1|p' build/mlx-c/CMakeCache.txt 2>/dev/null)
if [ -n "$place" ] && [ "$place" != "$here" ] && ! [ "$place" -ef "$here" ]; then
    echo "==> this folder was $place: what holds that path is made again" >&2
    # A link leads into somebody else's folder; what is there stays.
    for kept in bin build/mlx-c build/kernels-tsan build/kernels-arm64 build/darwin/mlx-c build/browser build/agents; do
        if [ -L "$kept" ]; then rm -f "$kept"; else rm -rf "$kept"; fi
    done
    # The libraries find this link beside themselves, and so go on working.
    mlx=$(readlink build/mlx)
    case $mlx in "$place"/*) ln -sfn "$here${mlx#"$place"}" build/mlx ;; esac
    # Programs of .venv/bin name their interpreter by its path; make uses these.
    for tool in cmake pkgconf; do
        [ -L .venv ] || [ ! -e .venv/bin/$tool ] || rm -f .venv/.ready
    done
fi
[ ! -d build ] || [ "$(cat build/place 2>/dev/null)" = "$here" ] || { echo "$here" >build/place; } 2>/dev/null
[ ! -e .venv/.ready ] || .venv/bin/python -c 'import mlx, pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null || rm -f .venv/.ready
