# setting: KUBERNETES_PATCHES=true
# Kubernetes' programs, linked statically, with the version set as in the upstream release. The version of patched
# programs has a suffix.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} minor=${minor%%.*}
module=()
if [ "$KUBERNETES_PATCHES" = true ]; then
  # A pod with a volume, such as a function's token, waits about 300 ms for loops of kubelet that sleep 100 and 300 ms
  # between short steps. The patched loops sleep that long only while no pod waits for them.
  go mod download k8s.io/kubernetes
  cp -r "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)" patched
  chmod -R u+w patched
  if ! patch --directory patched --strip 1 --fuzz 0 <volumes.patch; then
    echo "kubernetes $version: volumes.patch no longer applies. Review kubelet's volume manager, or build without the patch: -e bundle_kubernetes_patches=false" >&2
    exit 1
  fi
  cp go.mod patched.mod
  cp go.sum patched.sum
  go mod edit -replace k8s.io/kubernetes=./patched patched.mod
  module=(-modfile patched.mod)
  version+=+koren.1
fi
flags=()
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=(-X "$package.gitVersion=$version" -X "$package.gitMajor=1" -X "$package.gitMinor=$minor")
done
go build "${module[@]}" -trimpath -ldflags "-s -w ${flags[*]}" -o "$OUT/bin/" tool
# Programs that a node runs directly; the others run as images.
mkdir "$OUT/node"
ln "$OUT"/bin/{kubeadm,kubectl,kubelet} "$OUT/node/"
echo "$version" >"$OUT/version"
