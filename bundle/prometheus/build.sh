# The server scrapes nothing, so it is built without service discovery. Its web UI is left out, since the console shows the
# figures.
version=$(go list -m -f '{{.Version}}' github.com/prometheus/prometheus)
# The module's version v0.315.1 is the program's version 3.15.1.
release=$(sed -E 's/^v0\.([0-9])0?([0-9]+)\./\1.\2./' <<<"$version")
go build -trimpath -tags remove_all_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=$release" -o "$OUT/bin/" tool
echo "$release" >"$OUT/version"
