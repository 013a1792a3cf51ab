# needs: python3.13-base
# source: apps/runtime bundle/runtime
# What the images of functions in Python 3.13 are made from.
python=python3.13 base=python3.13-base
. "$REPO/bundle/runtime/build.sh"
