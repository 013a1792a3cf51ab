# needs: kubernetes keda metrics-server
# Upstream's manifests with this bundle's images and probes that report readiness within seconds.
cp -r "$BUNDLE/keda/config" keda/upstream
cp -r "$BUNDLE/metrics-server/manifests" metrics-server/upstream
chmod -R u+w keda metrics-server
for name in keda metrics-server; do
  sed -i "s|@VERSION@|$(cat "$BUNDLE/$name/version")|" "$name/kustomization.yaml"
  "$BUNDLE/kubernetes/bin/kubectl" kustomize "$name" >"$OUT/$name.yaml"
done
