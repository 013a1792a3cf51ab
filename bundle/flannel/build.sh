# flannel compiles only with cgo. It is linked statically, so its image needs no C library.
CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo \
  -ldflags '-s -w -linkmode external -extldflags "-static"' -o "$OUT/bin/flanneld" tool
go list -m -f '{{.Version}}' github.com/flannel-io/flannel >"$OUT/version"
