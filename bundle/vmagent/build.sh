version=$(go list -m -f '{{.Version}}' github.com/VictoriaMetrics/VictoriaMetrics)
go build -trimpath -ldflags "-s -w -X github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version=vmagent-$version" -o "$OUT/bin/vmagent" tool
echo "$version" >"$OUT/version"
