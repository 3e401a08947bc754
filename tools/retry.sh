#!/bin/sh
# Runs a command that downloads, and runs it again when it fails, three times and after a pause: registries and networks have bad moments, and
# not every client asks again by itself.
for pause in 5 20 60; do
    "$@" && exit
    echo "==> failed, and is tried again in $pause seconds: $*" >&2
    sleep "$pause"
done
exec "$@"
