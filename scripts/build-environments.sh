#!/usr/bin/env bash
# Builds the images of the named environments, or of all: scripts/build-environments.sh python node
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python manage.py build_environments "$@"
