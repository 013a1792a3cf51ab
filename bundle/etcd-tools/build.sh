# etcdctl backs up a region's etcd, and etcdutl restores it.
go build -trimpath -ldflags "-s -w" -o "$OUT/bin/" tool
