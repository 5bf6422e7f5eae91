#!/usr/bin/env bash
# Make the environment in $1: find a Python >= 3.12, create a venv, install the pinned versions.
set -euo pipefail
venv=${1:-.venv}

good() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

find_python() {
    local c
    for c in "${SKYMILL_PYTHON:-}" python3.12 python3.13 python3.14 python3 python \
        "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python \
        "$HOME"/miniconda3/bin/python "$HOME"/miniforge3/bin/python /opt/conda/bin/python; do
        [ -n "$c" ] && command -v "$c" >/dev/null 2>&1 && good "$c" && { echo "$c"; return 0; }
    done
    if command -v uv >/dev/null 2>&1; then
        c=$(uv python find '>=3.12' 2>/dev/null) && good "$c" && { echo "$c"; return 0; }
    fi
    return 1
}

if ! { [ -x "$venv/bin/python" ] && good "$venv/bin/python"; }; then
    python=$(find_python) || {
        echo "skymill needs Python 3.12 or newer with the venv module, and found none: install one" \
             "(for example 'pyenv install 3.12', 'uv python install 3.12' or your system's python3.12-venv)" \
             "or name it with SKYMILL_PYTHON=/path/to/python." >&2
        exit 1
    }
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
echo "installing skymill and the versions of constraints.txt (1-3 minutes the first time)"
"$venv/bin/python" -m pip install -q --upgrade 'pip>=25.1' ||
    { echo "could not upgrade pip in $venv: is the package index reachable?" >&2; exit 1; }
"$venv/bin/python" -m pip install -q -c constraints.txt --group test --group check -e '.[postgres]' ||
    { echo "could not install the packages of constraints.txt: see the message above" >&2; exit 1; }
echo "compiling the numerical kernels (about a minute the first time)"
"$venv/bin/python" -m skymill.engine.warm || echo "they will be compiled when they are first used" >&2
