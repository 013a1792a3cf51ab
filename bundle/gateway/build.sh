# needs: python-base
# source: apps/gateway apps/events
# The gateway's image: python-base, with the gateway and its wheels compiled in /opt/gateway, and tracing libraries in
# /opt/tracing.
name=bundle.koren.internal/gateway
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

install() {
  python -m pip install --quiet --require-hashes --no-deps --no-compile --only-binary :all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 \
    --platform any --target "$store/$1" --requirement "$2"
}
install gateway requirements.txt
# Tracing is separate and on the module path only if it is enabled. Otherwise Redis' client would load it, too.
install tracing requirements-tracing.txt
cp -r "$REPO/apps/gateway/src/koren_gateway" "$REPO/apps/events/src/koren_events" "$store/gateway/"
rm -rf "$store"/{gateway,tracing}/bin
find "$store/gateway" "$store/tracing" \( -name __pycache__ -o -name direct_url.json \) -prune -exec rm -r {} +
chmod -R a+rX,u+w,go-w "$store/gateway" "$store/tracing"

# The tag changes with the contents, because nodes keep the image that they have under a tag.
version=$(python -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb"))["project"]["version"])' \
  "$REPO/apps/gateway/pyproject.toml")
contents=$({ cat "$BUNDLE/python-base/version"; (cd "$store" && find gateway tracing -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum); } | sha256sum)
version=$version-${contents:0:12}
echo "$version" >"$OUT/version"

container=$(buildah from "oci-archive:$BUNDLE/python-base/image.tar")
buildah copy -q "$container" "$store/gateway" /opt/gateway
buildah copy -q "$container" "$store/tracing" /opt/tracing
buildah config --user 65532:65532 --workingdir /tmp --env PYTHONPATH=/opt/gateway \
  --entrypoint '["/usr/bin/python3.11", "-s", "-P", "-m", "koren_gateway"]' "$container"
run() { buildah run --isolation chroot "$container" -- /usr/bin/python3.11 -s -P "$@"; }
# A pod's file system is read-only, so byte-code is compiled here. It is unchecked, since layers lose file times.
buildah run --isolation chroot --user 0:0 "$container" -- \
  /usr/bin/python3.11 -I -m compileall -q --invalidation-mode unchecked-hash /opt/gateway /opt/tracing
# Smoke test: without settings, it reports which one is missing.
said=$(run -m koren_gateway 2>&1) || true
[[ $said == *"KOREN_GATEWAY_REGION: Field required"* ]] || { echo "the gateway does not start: $said" >&2; exit 1; }
said=$(buildah run --isolation chroot --env PYTHONPATH=/opt/gateway:/opt/tracing "$container" -- \
  /usr/bin/python3.11 -s -P -c 'import koren_events.tracing' 2>&1) || { echo "no traces: $said" >&2; exit 1; }

buildah commit -q --rm --timestamp 315532800 "$container" "$name:$version" >/dev/null
buildah push -q "$name:$version" "oci-archive:$OUT/image.tar:$name:$version"
