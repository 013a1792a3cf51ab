# needs: python-base
# source: apps/console apps/events apps/runtime/src apps/report-incident/post_text
# The console's image: python-base, with the console and its wheels compiled in /opt/console.
name=bundle.koren.internal/console
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

python -m pip install --quiet --require-hashes --no-deps --no-compile --only-binary :all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 \
  --platform any --target "$store/console" --requirement requirements.txt
# The text of posts is shared with the function report-incident through a link in the console's package, which is
# followed here.
cp -rL "$REPO/apps/console/src/koren_console" "$REPO/apps/events/src/koren_events" \
  "$REPO/apps/runtime/src/koren_runtime" "$store/console/"
rm -rf "$store/console/bin"
find "$store/console" \( -name __pycache__ -o -name direct_url.json \) -prune -exec rm -r {} +
chmod -R a+rX,u+w,go-w "$store/console"

# The tag changes with the contents, because nodes keep the image that they have under a tag.
version=$(python -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb"))["project"]["version"])' \
  "$REPO/apps/console/pyproject.toml")
contents=$({ cat "$BUNDLE/python-base/version"; (cd "$store/console" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum); } | sha256sum)
version=$version-${contents:0:12}
echo "$version" >"$OUT/version"

container=$(buildah from "oci-archive:$BUNDLE/python-base/image.tar")
buildah copy -q "$container" "$store/console" /opt/console
buildah config --user 65532:65532 --workingdir /tmp --env PYTHONPATH=/opt/console \
  --entrypoint '["/usr/bin/python3.11", "-s", "-P", "-m", "koren_console"]' "$container"
# A pod's file system is read-only, so byte-code is compiled here. It is unchecked, since layers lose file times.
buildah run --isolation chroot --user 0:0 "$container" -- \
  /usr/bin/python3.11 -I -m compileall -q --invalidation-mode unchecked-hash /opt/console
# Smoke test: without settings, it reports which one is missing.
said=$(buildah run --isolation chroot "$container" -- /usr/bin/python3.11 -s -P -m koren_console /settings.json 2>&1) || true
[[ $said == *"/settings.json"* ]] || { echo "the console does not start: $said" >&2; exit 1; }

buildah commit -q --rm --timestamp 315532800 "$container" "$name:$version" >/dev/null
buildah push -q "$name:$version" "oci-archive:$OUT/image.tar:$name:$version"
