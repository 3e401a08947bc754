#!/bin/sh
# Looks for the tools that `make` needs and says in one list what is missing or too old, with the command that installs it on
# Debian and on macOS. `tools/check.sh browser` looks for what only the tests need, too.
#
# CMake and pkg-config are not among them: where the system has none, those of requirements-tools.txt go into .venv.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
GO=${GO:-go}
CARGO=${CARGO:-cargo}
missing=

lacks() { # WHAT DEBIAN MACOS
    if [ "$(uname -s)" = Darwin ]; then how=$3; else how=$2; fi
    missing="$missing
  $1: $how"
}
# at_least VERSION WANTED: whether the first two numbers of a version are no less than those wanted.
at_least() {
    printf '%s %s\n' "$1" "$2" | awk '{ split($1, have, "."); split($2, want, "."); exit !(have[1] + 0 > want[1] + 0 || have[1] + 0 == want[1] + 0 && have[2] + 0 >= want[2] + 0) }'
}
check() { # NAME WANTED FOUND DEBIAN MACOS
    [ -n "$3" ] && at_least "$3" "$2" && return
    lacks "$1 $2 or newer${3:+ (found $3)}" "$4" "$5"
}

# An older go command fetches the version that go.mod names by itself, if it may.
check Go "$(sed -n 's/^go //p' go.mod)" "$($GO env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//')" "download it from https://go.dev/dl" "brew install go"
check Python 3.11 "$($PYTHON -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" "apt-get install python3 python3-venv" "brew install python"
if command -v "$PYTHON" >/dev/null 2>&1 && ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    lacks "Python's venv" "apt-get install python3-venv" "brew install python"
fi
check Rust 1.87 "$($CARGO --version 2>/dev/null | awk '{ print $2 }')" "curl https://sh.rustup.rs -sSf | sh" "brew install rust"
if ! command -v c++ >/dev/null 2>&1; then
    lacks "a C++ compiler" "apt-get install g++" "xcode-select --install"
elif ! printf '#include <concepts>\n#include <span>\n' | c++ -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; then
    lacks "a C++ compiler that knows C++20 (found $(c++ --version | head -n 1))" "apt-get install g++ (GCC 11 or newer)" "xcode-select --install"
fi
# cgo and Rust call the C compiler by these names.
for cc in cc "$($GO env CC 2>/dev/null)"; do
    if [ -n "$cc" ] && ! command -v "${cc%% *}" >/dev/null 2>&1; then
        lacks "a C compiler (${cc%% *})" "apt-get install gcc" "xcode-select --install"
        break
    fi
done
command -v git >/dev/null 2>&1 || lacks git "apt-get install git" "xcode-select --install"
if [ "${1:-}" = browser ] && ! sh tools/browser.sh >/dev/null && [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    lacks "Chromium or Chrome" "apt-get install chromium" "brew install --cask chromium"
fi
[ -z "$missing" ] || { echo "missing tools:$missing" >&2; exit 1; }
