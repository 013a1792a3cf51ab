go build -trimpath -ldflags "-s -w" -o "$OUT/bin/" tool
go list -m -f '{{.Version}}' sigs.k8s.io/metrics-server >"$OUT/version"
cp -r "$(go list -m -f '{{.Dir}}' sigs.k8s.io/metrics-server)/manifests" "$OUT/manifests"
chmod -R u+w "$OUT/manifests"
