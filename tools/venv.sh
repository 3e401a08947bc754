#!/bin/sh
# venv.sh DIR PYTHON: makes the virtual environment DIR, where it is not there, was broken off, or its Python has gone. The file .made says that an
# environment was made here; no other is touched, and none behind a link.
dir=$1 python=$2
"$dir/bin/python" -c 'import pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null && exit
if [ -L "$dir" ] || { [ -d "$dir" ] && [ ! -e "$dir/.made" ] && [ -n "$(ls -A "$dir")" ]; }; then
    echo "$dir has no Python with pip that works, and make has not made it: repair it, or remove it and run make again" >&2
    exit 1
fi
rm -rf "$dir/bin" "$dir/lib" "$dir/lib64" "$dir/include" "$dir/pyvenv.cfg"
mkdir -p "$dir" && : >"$dir/.made" && exec "$python" -m venv "$dir"
