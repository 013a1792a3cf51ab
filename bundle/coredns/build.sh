go build -trimpath -ldflags "-s -w" -o "$OUT/bin/coredns" tool
go list -m -f '{{.Version}}' github.com/coredns/coredns >"$OUT/version"
