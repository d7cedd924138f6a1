#!/usr/bin/env bash
# Prints the GPUs that this process may use, as Spark asks for them: {"name": "gpu", "addresses": ["0", "1"]}.
# Where CUDA_VISIBLE_DEVICES names some, TensorFlow counts those from 0, and an address is a place among them.
set -euo pipefail
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader | tr -d ' ')
if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
  indices=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | awk '/^-/ { exit } NF { print n++ }') # CUDA ends at a -1
fi
addresses=$(paste -sd, <<<"$indices" | sed 's/[^,]\{1,\}/"&"/g; s/,/, /g')
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
