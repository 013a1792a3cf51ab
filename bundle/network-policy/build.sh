# The project's own program. go.mod and go.sum pin its modules.
go build -trimpath -ldflags "-s -w" -o "$OUT/bin/koren-network-policy" .
