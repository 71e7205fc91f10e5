#!/bin/sh
# One call of each dialect with curl.
#
#   examples/curl.sh [ADDRESS] [KEY_FILE]
#
# ADDRESS is that of the gateway, without /v1. KEY_FILE is the file that `embedgate serve` named on its first start.
set -eu
address=${1:-http://127.0.0.1:3100}
key=$(cat "${2:-$HOME/.local/share/embedgate/user.key}")

echo "OpenAI:"
curl --silent --show-error --fail-with-body "$address/v1/embeddings" \
    -H "Authorization: Bearer $key" \
    -H "Content-Type: application/json" \
    -d '{"model": "local/all-minilm-l6-v2", "input": ["A cat sat on the mat."], "encoding_format": "base64"}'
echo

echo "ZIRI:"
curl --silent --show-error --fail-with-body "$address/api/embeddings" \
    -H "X-API-Key: $key" \
    -H "Content-Type: application/json" \
    -d '{"provider": "local", "model": "all-minilm-l6-v2", "input": ["A cat sat on the mat."], "encoding_format": "base64"}'
echo
