#!/usr/bin/env bash
# Lays out the shop's installation where it is missing and adds a release to it.
#
#   add-release.sh ROOT NAME PBKDF2_ITERATIONS
#
#   ROOT/bin/                  start.sh, deploy.sh, rollback.sh
#   ROOT/releases/NAME/        app.py, settings.json, REVISION
#   ROOT/current               the release that serves; the first one added, until a deploy
#   ROOT/run/                  pid file, log, marks of ready workers
set -euo pipefail

if (($# != 3)); then
    echo "usage: add-release.sh ROOT NAME PBKDF2_ITERATIONS" >&2
    exit 64
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$1 name=$2 iterations=$3

if [[ ! $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ || ! $iterations =~ ^[1-9][0-9]*$ ]]; then
    echo "add-release.sh: want a plain release name and a number of iterations, not '$name' and '$iterations'" >&2
    exit 64
fi
mkdir -p "$root/bin" "$root/releases/$name" "$root/run"
install -m 755 "$here"/{start,switch,deploy,rollback}.sh "$root/bin/"
install -m 644 "$here/gunicorn.conf.py" "$root/"
install -m 644 "$here/app.py" "$root/releases/$name/"
printf '{"pbkdf2_iterations": %d}\n' "$iterations" >"$root/releases/$name/settings.json"
printf '%s\n' "$name" >"$root/releases/$name/REVISION"
if [[ ! -e $root/current ]]; then
    ln -sfn "releases/$name" "$root/current"
fi
