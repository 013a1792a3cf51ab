# A region's etcd is backed up with the one and restored with the other.
go build -trimpath -ldflags "-s -w" -o "$OUT/bin/" tool
