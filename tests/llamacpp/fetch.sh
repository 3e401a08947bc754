#!/bin/sh
# Fetches llama.cpp, as the npm package node-llama-cpp has it built, into build/llamacpp. What is there is not fetched again.
set -eu
cd "$(dirname "$0")/../.."
out=build/llamacpp
mkdir -p "$out"
version=3.22.1
# npm writes this list when all else is there.
if ! grep -qs "/node-llama-cpp-$version.tgz" "$out/node_modules/.package-lock.json"; then
  echo "==> llama.cpp, as node-llama-cpp has it built, into $out"
  (cd "$out" && npm init -y >/dev/null && sh ../../tools/retry.sh npm install --silent --no-audit --no-fund --ignore-scripts "node-llama-cpp@$version")
fi
