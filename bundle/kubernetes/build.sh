# Kubernetes' own programs, static, told their version as the upstream release does.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} minor=${minor%%.*}
flags=()
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=(-X "$package.gitVersion=$version" -X "$package.gitMajor=1" -X "$package.gitMinor=$minor")
done
build() { go build -trimpath -ldflags "-s -w ${flags[*]}" -o "$OUT/bin/" "$@"; }
build tool

# kubelet once more, with three constants changed: a pod with a volume, and a function's has its token, waits some 300 ms
# for loops that sleep 100 and 300 ms between steps that take a few. The loop over all pods is kept slower than the one
# over what there is to mount.
cp -r "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)" patched
chmod -R u+w patched
waiting=patched/pkg/kubelet/volumemanager/volume_manager.go
while read -r constant ms; do
  sed -i "s/^\(\t$constant *= \)[13]00 \*/\1$ms */" "$waiting"
  if ! grep -q "$constant *= $ms \* time.Millisecond" "$waiting"; then
    echo "kubernetes $version: $constant is no longer 100 or 300 ms; look at it anew" >&2
    exit 1
  fi
done <<'END'
desiredStateOfWorldPopulatorLoopSleepPeriod 20
reconcilerLoopSleepPeriod 5
podAttachAndMountRetryInterval 5
END
cp go.mod patched.mod
cp go.sum patched.sum
go mod edit -replace k8s.io/kubernetes=./patched patched.mod
build -modfile patched.mod k8s.io/kubernetes/cmd/kubelet
# What a node runs itself; the others come as images.
mkdir "$OUT/node"
ln "$OUT"/bin/{kubeadm,kubectl,kubelet} "$OUT/node/"
echo "$version" >"$OUT/version"
