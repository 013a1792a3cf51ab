# The project's own program; its modules are pinned in go.mod and go.sum.
go build -trimpath -ldflags "-s -w" -o "$OUT/bin/koren-network-policy" .
