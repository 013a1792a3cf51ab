go build -trimpath -ldflags "-s -w" -o "$OUT/bin/" tool
# KEDA's manifests are in its module. Its CRDs and roles are applied unchanged.
cp -r "$(go list -m -f '{{.Dir}}' github.com/kedacore/keda/v2)/config" "$OUT/config"
chmod -R u+w "$OUT/config"
go list -m -f '{{.Version}}' github.com/kedacore/keda/v2 >"$OUT/version"
