# source: bundle/python-base
# Python 3.13 of Debian 13.
. "$REPO/bundle/python-base/build.sh"
