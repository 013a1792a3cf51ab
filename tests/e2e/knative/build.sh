#!/usr/bin/env bash
# build.sh OUT TAG: Knative Serving in the folder OUT: images of its programs, and its manifests with those images' names.
set -euo pipefail
cd "$(dirname "$0")"
out=$1 tag=$2
registry=peers.koren.internal
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
buildah() { command buildah --root "$scratch/root" --runroot "$scratch/run" --storage-driver vfs "$@"; }

mkdir -p "$out/images" "$out/manifests"
go build -trimpath -ldflags "-s -w" -o "$scratch/bin/" tool
for program in "$scratch"/bin/*; do
  name=${program##*/}
  image=$registry/knative-$name:$tag
  container=$(buildah from scratch)
  buildah copy -q "$container" "$program" /usr/local/bin/ >/dev/null
  buildah config --user 65532:65532 --entrypoint "[\"/usr/local/bin/$name\"]" "$container"
  buildah commit -q --rm "$container" "$image" >/dev/null
  buildah push -q "$image" "oci-archive:$out/images/$name.tar:$image"
done

module() { go list -m -f '{{.Dir}}' "knative.dev/$1"; }
manifest() { # manifest NAME FILE...: the files as one, with the images' names
  local name=$1 file
  shift
  for file; do
    echo ---
    sed "s|ko://knative.dev/serving/cmd/|$registry/knative-|; /$registry/s|\$|:$tag|" "$file"
  done >"$out/manifests/$name.yaml"
}
serving=$(module serving)/config/core
networking=$(module networking)/config
manifest crds "$serving"/300-resources/*.yaml "$networking"/{certificate,domain-claim,ingress,serverlessservice}.yaml \
  "$(module caching)"/config/image.yaml
# Without what scales its own parts: they stay as they are while it is measured.
manifest core "$serving"/100-namespace.yaml "$serving"/200-serviceaccount.yaml "$serving"/200-roles/*.yaml \
  "$serving"/configmaps/*.yaml "$networking"/config-network.yaml "$serving"/webhooks/secret.yaml \
  "$serving"/deployments/{activator,autoscaler,controller,webhook}.yaml
manifest webhooks "$serving"/webhooks/{configmap-validation,defaulting,resource-validation}.yaml
go list -m -f '{{.Version}}' knative.dev/serving >"$out/version"
