version=$(go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$version" -o "$OUT/bin/" tool
go list -m -f '{{.Version}}' github.com/containerd/containerd/v2 >"$OUT/version"
