go build -trimpath -ldflags "-s -w" -o "$OUT/bin/" tool
go list -m -f '{{.Version}}' github.com/containernetworking/plugins >"$OUT/version"
