#!/usr/bin/env bash
# Starts gunicorn in the foreground on the current release. SHOP_GUNICORN names the program.
#
# The working directory is entered by way of the symlink and PWD says so: after SIGUSR2 gunicorn starts its successor in
# the directory that PWD named, which by then is another release.
set -euo pipefail

SHOP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export SHOP_ROOT
rm -f "$SHOP_ROOT"/run/ready.*
cd -L "$SHOP_ROOT/current"
export PWD
# Python would write its bytecode into the release; a release is not written to once it is there.
export PYTHONDONTWRITEBYTECODE=1
exec "${SHOP_GUNICORN:-gunicorn}" --config "$SHOP_ROOT/gunicorn.conf.py" app:app
