#!/usr/bin/env bash
# Runs the tests with several versions of Python, TensorFlow and Keras, each in an environment of its own, and records it.
#
#   tools/test_versions.sh [PYTEST ARGUMENT ...]            by default the default tests
#   COMBINATIONS="3.12:2.21:3.15" tools/test_versions.sh    PYTHON:TENSORFLOW:KERAS ...
#
# pythonX.Y must be on the PATH. Environments stay in VERSIONS_DIR (build/versions) and are used again. RECORD is the file
# written, a JSON line per combination; experiments/results/versions.jsonl by default. Ends with 1 if any combination fails.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

combinations=${COMBINATIONS:-"3.11:2.20:3.15 3.11:2.21:3.15 3.12:2.21:3.15 3.13:2.21:3.15"}  # the oldest first
folder=$(realpath -m "${VERSIONS_DIR:-build/versions}")
record=${RECORD:-experiments/results/versions.jsonl}
mkdir -p "$folder" "$(dirname "$record")"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
lines="" failed=0

for combination in $combinations; do
  IFS=: read -r python tensorflow keras <<< "$combination"
  venv="$folder/${combination//:/-}" log="$folder/${combination//:/-}.log"  # venv refuses colons
  echo "== Python $python, TensorFlow $tensorflow, Keras $keras"
  if [ ! -x "$venv/bin/python" ]; then "python$python" -m venv "$venv" || { failed=1; continue; }; fi
  # The bounds of setup.py are what is tested here, so they must not choose the versions.
  if ! "$venv/bin/pip" install --quiet setuptools || ! "$venv/bin/pip" install --quiet "tensorflow==$tensorflow.*" "keras==$keras.*" \
      $("$venv/bin/python" tools/test_requirements.py); then failed=1; continue; fi
  start=$(date +%s)
  "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@" > "$log" 2>&1
  status=$? summary=$(grep -E "[0-9]+ (passed|failed|error)" "$log" | tail -1 | tr -d '=')
  [ $status -eq 0 ] || failed=1
  echo "${summary:-no test ran}; $log"
  lines+=$("$venv/bin/python" - "$commit" "$status" "${summary:-}" "$(($(date +%s) - start))" "$*" << 'PYTHON'
import importlib.metadata, json, platform, sys
commit, status, summary, seconds, arguments = sys.argv[1:]
versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
facts = {"passed": status == "0", "summary": " ".join(summary.split()), "seconds": int(seconds), "commit": commit}
print(json.dumps({"python": platform.python_version(), **versions, **facts, "tests": arguments or "the default tests"}))
PYTHON
)$'\n'
done
if [ -n "$lines" ]; then printf '%s' "$lines" > "$record" && echo "Written: $record"; else echo "No test ran: $record stays as it is."; fi
exit $failed
