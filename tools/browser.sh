#!/bin/sh
# Prints the browser that the tests of the page will use, or fails where there is none.
for name in "$(dirname "$0")/../build/browser/chromium" chromium chromium-browser google-chrome google-chrome-stable headless-shell headless_shell chrome \
    "/Applications/Chromium.app/Contents/MacOS/Chromium" "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    command -v "$name" && exit
done
exit 1
