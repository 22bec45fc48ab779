# Sourced by the other scripts: the repository root as working directory, Pythons on PATH, settings for hatch and uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case $PWD in *' '*) echo "uv reads no constraints from a path with a space: $PWD" >&2 && exit 1 ;; esac

# hatch cannot use pyenv's shims, so the interpreters themselves go on PATH.
for bin in $(printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[123].*[0-9]/bin | sort -V); do
    [ ! -x "$bin/python3" ] || PATH="$bin:$PATH"
done
export PATH
export HATCH_DATA_DIR="$PWD/.tools/data" # environments live here, not in the home directory
export HATCH_INTERACTIVE=0
export UV_PYTHON_DOWNLOADS=never
export UV_CONSTRAINT="$PWD/constraints.txt" UV_BUILD_CONSTRAINT="$PWD/constraints.txt"
