# Kubernetes' own programs, static, told their version as the upstream release does.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} minor=${minor%%.*}
flags=()
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=(-X "$package.gitVersion=$version" -X "$package.gitMajor=1" -X "$package.gitMinor=$minor")
done
go build -trimpath -ldflags "-s -w ${flags[*]}" -o "$OUT/bin/" tool
echo "$version" >"$OUT/version"
