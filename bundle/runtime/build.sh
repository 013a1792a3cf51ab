# needs: python-base
# source: apps/runtime
# What every function's image is made from: Python and the runtime, compiled. A function adds /function. Other recipes use
# this one with another Python and its base.
name=bundle.koren.internal/${PWD##*/}
python=${python:-python3.11} base=${base:-python-base}
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

version=$(python -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb"))["project"]["version"])' \
  "$REPO/apps/runtime/pyproject.toml")
echo "$version" >"$OUT/version"
# What its image has of Debian: a function that adds packages gets only what is not there.
cp "$BUNDLE/$base/dpkg-status" "$OUT/"

install -d "$store/lib" "$store/function/site-packages"
cp -r "$REPO/apps/runtime/src/koren_runtime" "$store/lib/"
# For a developer's machine, and for functions in JavaScript: no pod of a Python function needs it.
rm -r "$store"/lib/koren_runtime/{local,node,conformance.py,testing.py}
find "$store/lib" -name __pycache__ -prune -exec rm -r {} +
chmod -R a+rX,u+w,go-w "$store/lib"

container=$(buildah from "oci-archive:$BUNDLE/$base/image.tar")
buildah copy -q "$container" "$store/lib" /usr/lib/koren
buildah copy -q "$container" "$store/function" /function
run() { buildah run --isolation chroot --user 0:0 "$container" -- "/usr/bin/$python" -I -S "$@"; }
run -m compileall -q --invalidation-mode unchecked-hash /usr/lib/koren
# Python starts a .pyc by its name only outside __pycache__.
run -c 'import py_compile
py_compile.compile("/usr/lib/koren/koren_runtime/start.py", "/usr/lib/koren/koren_runtime/start.pyc",
                   doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)'
# It runs: without a function it says what is missing, and ends.
said=$(run /usr/lib/koren/koren_runtime/start.pyc 2>&1) || true
[[ $said == "runtime: MOD_NAME is not set"* ]] || { echo "the runtime does not start: $said" >&2; exit 1; }

buildah config --user 65532:65532 --workingdir /function \
  --entrypoint "[\"/usr/bin/$python\", \"-I\", \"-S\", \"/usr/lib/koren/koren_runtime/start.pyc\"]" "$container"
buildah commit -q --rm --timestamp 315532800 "$container" "$name:$version" >/dev/null
buildah push -q "$name:$version" "oci-archive:$OUT/image.tar:$name:$version"
