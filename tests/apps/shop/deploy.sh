#!/usr/bin/env bash
# Deploys a release: deploy.sh NAME
exec "$(dirname "${BASH_SOURCE[0]}")/switch.sh" "$@"
