# setting: KUBERNETES_PATCHES=true
# Kubernetes' own programs, static, told their version as the upstream release does. Patched programs say so in it.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} minor=${minor%%.*}
module=()
if [ "$KUBERNETES_PATCHES" = true ]; then
  # A pod with a volume, and a function's has its token, waits some 300 ms for loops of kubelet's that sleep 100 and 300 ms
  # between steps that take a few. Patched, they sleep as long only while nobody waits for them.
  go mod download k8s.io/kubernetes
  cp -r "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)" patched
  chmod -R u+w patched
  if ! patch --directory patched --strip 1 --fuzz 0 <volumes.patch; then
    echo "kubernetes $version: volumes.patch no longer fits; look at kubelet's volume manager anew, or build it without: -e bundle_kubernetes_patches=false" >&2
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
# What a node runs itself; the others come as images.
mkdir "$OUT/node"
ln "$OUT"/bin/{kubeadm,kubectl,kubelet} "$OUT/node/"
echo "$version" >"$OUT/version"
