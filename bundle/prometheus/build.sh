# The server scrapes nothing, so it needs no discovery of any cloud. Its own pages are left out: the console shows the figures.
version=$(go list -m -f '{{.Version}}' github.com/prometheus/prometheus)
# The module is numbered v0.315.1 where the program is 3.15.1.
release=$(sed -E 's/^v0\.([0-9])0?([0-9]+)\./\1.\2./' <<<"$version")
go build -trimpath -tags remove_all_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=$release" -o "$OUT/bin/" tool
echo "$release" >"$OUT/version"
