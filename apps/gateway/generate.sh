#!/usr/bin/env bash
# Makes the Python modules of KEDA's protocol anew; run it when the .proto or grpcio-tools changed.
set -euo pipefail
cd "$(dirname "$0")/src"
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
  koren_gateway/scaling/externalscaler/externalscaler.proto
for module in koren_gateway/scaling/externalscaler/externalscaler_pb2{,_grpc}.py{,i}; do
  [ -f "$module" ] || continue
  sed -i '1i # ruff: noqa\n# mypy: ignore-errors' "$module"
done
