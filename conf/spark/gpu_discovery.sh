#!/usr/bin/env bash
# Prints the GPUs that this process may use, as Spark asks for them: {"name": "gpu", "addresses": ["0", "1"]}.
set -euo pipefail
addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader | tr -d ' ' | paste -sd, | sed 's/[^,]\{1,\}/"&"/g; s/,/, /g')
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
