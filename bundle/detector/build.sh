# source: apps/detector apps/events
# The detector and its dependencies as wheels, except torch, OpenCV and numpy, which are Debian packages on the host.
wheels=$OUT/wheels
mkdir "$wheels"
python -m pip download --quiet --require-hashes --no-deps --only-binary :all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform any \
  --dest "$wheels" --requirement requirements.txt
python -m pip download --quiet --require-hashes --no-deps --only-binary :all: \
  --dest build-wheels --requirement build-requirements.txt
for app in events detector; do
  cp -r "$REPO/apps/$app" "$app"
  PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/build-wheels \
    python -m pip wheel --quiet --no-deps --wheel-dir own "./$app"
done
cp requirements.txt "$OUT/requirements.txt"
for wheel in own/*.whl; do
  name=$(basename "$wheel")
  IFS=- read -r package version _ <<<"$name"
  printf '%s==%s --hash=sha256:%s\n' "${package//_/-}" "$version" \
    "$(sha256sum "$wheel" | cut -d' ' -f1)" >>"$OUT/requirements.txt"
done
mv own/*.whl "$wheels/"
