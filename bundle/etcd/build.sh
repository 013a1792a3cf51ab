go build -trimpath -ldflags "-s -w" -o "$OUT/bin/etcd" tool
go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3 >"$OUT/version"
