#!/bin/sh
# Takes the libraries of the chat page, of these versions, from the npm registry into static/vendor. They are kept here so that
# nothing but Go is needed to build the program.
set -eu
cd "$(dirname "$0")/static/vendor"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
: >LICENSES.txt
take() { # PACKAGE VERSION FILE TARGET
    npm pack --silent --pack-destination "$temp" "$1@$2" >/dev/null
    rm -rf "$temp/package"
    tar -xzf "$temp"/*"$2".tgz -C "$temp"
    grep -v '^//# sourceMappingURL' "$temp/package/$3" >"$4"
    { echo "=== $1 $2"; cat "$temp"/package/LICENSE*; echo; } >>LICENSES.txt
    rm "$temp"/*.tgz
}
take marked 18.2.1 lib/marked.esm.js marked.js
take dompurify 3.4.18 dist/purify.es.mjs purify.js
take idb 8.0.4 build/index.js idb.js
take @highlightjs/cdn-assets 11.12.0 es/highlight.min.js highlight.js
