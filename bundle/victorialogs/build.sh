version=$(go list -m -f '{{.Version}}' github.com/VictoriaMetrics/VictoriaLogs)
go build -trimpath -ldflags "-s -w -X github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version=victoria-logs-$version" -o "$OUT/bin/" tool
echo "$version" >"$OUT/version"
