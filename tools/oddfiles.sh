#!/bin/sh
# Prints the committed files that nobody means to commit: what .gitignore names, what compilers and editors leave behind, names that a
# command would take for an option, and empty files.
cd "$(dirname "$0")/.." || exit 1
{
    git ls-files --cached --ignored --exclude-per-directory=.gitignore # not by what the user ignores elsewhere
    git ls-files -- '*.o' '*.a' '*.so' '*.dylib' '*.exe' '*.test' '*.prof' '*.orig' '*.rej' '*~' '*.swp' '.DS_Store' '*/.DS_Store' .venv build node_modules
    git ls-files | while read -r name; do
        case /$name in */-*) echo "$name" ;; esac
        [ ! -f "$name" ] || [ -s "$name" ] || echo "$name (empty)"
    done
} | sort -u
