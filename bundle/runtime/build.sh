# needs: python-base
# source: apps/runtime
# The base of every function's image: Python and the compiled runtime. A function adds /function.
name=bundle.koren.internal/runtime
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

version=$(python -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb"))["project"]["version"])' \
  "$REPO/apps/runtime/pyproject.toml")
echo "$version" >"$OUT/version"
# The Debian packages in the image: for a function that adds packages, only missing ones are added.
cp "$BUNDLE/python-base/dpkg-status" "$OUT/"

install -d "$store/lib" "$store/function/site-packages"
cp -r "$REPO/apps/runtime/src/koren_runtime" "$store/lib/"
# These parts are for developers' machines. Pods do not need them.
rm -r "$store/lib/koren_runtime/local" "$store/lib/koren_runtime/testing.py"
find "$store/lib" -name __pycache__ -prune -exec rm -r {} +
chmod -R a+rX,u+w,go-w "$store/lib"

container=$(buildah from "oci-archive:$BUNDLE/python-base/image.tar")
buildah copy -q "$container" "$store/lib" /usr/lib/koren
buildah copy -q "$container" "$store/function" /function
run() { buildah run --isolation chroot --user 0:0 "$container" -- /usr/bin/python3.11 -I -S "$@"; }
run -m compileall -q --invalidation-mode unchecked-hash /usr/lib/koren
# Python starts a .pyc by its name only outside __pycache__.
run -c 'import py_compile
py_compile.compile("/usr/lib/koren/koren_runtime/start.py", "/usr/lib/koren/koren_runtime/start.pyc",
                   doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)'
# Smoke test: without a function, it reports what is missing and exits.
said=$(run /usr/lib/koren/koren_runtime/start.pyc 2>&1) || true
[[ $said == "runtime: MOD_NAME is not set"* ]] || { echo "the runtime does not start: $said" >&2; exit 1; }

buildah config --user 65532:65532 --workingdir /function \
  --entrypoint '["/usr/bin/python3.11", "-I", "-S", "/usr/lib/koren/koren_runtime/start.pyc"]' "$container"
buildah commit -q --rm --timestamp 315532800 "$container" "$name:$version" >/dev/null
buildah push -q "$name:$version" "oci-archive:$OUT/image.tar:$name:$version"
