# needs: kubernetes etcd coredns flannel keda metrics-server
# Images of the clusters' system pods: a static binary, alone or with the few Debian packages that it calls.
registry=bundle.koren.internal
# A tag cannot contain "+". kubeadm uses the same replacement.
version=$(tr + _ <"$BUNDLE/kubernetes/version")
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

# image NAME:TAG BASE USER ENTRYPOINT FILE... : FILEs are copied to /usr/local/bin
image() {
  local name=$1 base=$2 user=$3 entrypoint=$4
  shift 4
  local container
  container=$(buildah from scratch)
  if [ -n "$base" ]; then buildah add -q "$container" "$base" /; fi
  buildah copy -q "$container" "$@" /usr/local/bin/
  buildah config --user "$user" --env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --entrypoint "[\"/usr/local/bin/${entrypoint// /\",\"}\"]" "$container"
  buildah commit -q --rm "$container" "$registry/$name" >/dev/null
  buildah push -q --compression-format zstd "$registry/$name" "oci-archive:$OUT/${name%%:*}.tar:$registry/$name"
}

mmdebstrap --quiet --variant=extract --include=nftables,libc6,conntrack,netbase bookworm "$store/nft.tar"
mmdebstrap --quiet --variant=extract --include=nftables,iptables,libc6,netbase,ca-certificates bookworm "$store/iptables.tar"
# No maintainer script has run, so this creates the names that flannel calls.
mkdir -p "$store/links/usr/sbin"
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  ln -s xtables-nft-multi "$store/links/usr/sbin/$name"
done
tar -rf "$store/iptables.tar" -C "$store/links" ./usr/sbin

for program in kube-apiserver kube-controller-manager kube-scheduler; do
  image "$program:$version" "" 0:0 "$program" "$BUNDLE/kubernetes/bin/$program"
done
image "kube-proxy:$version" "$store/nft.tar" 0:0 kube-proxy "$BUNDLE/kubernetes/bin/kube-proxy"
image "etcd:$(cat "$BUNDLE/etcd/version")" "" 0:0 etcd "$BUNDLE/etcd/bin/etcd"
image "coredns:$(cat "$BUNDLE/coredns/version")" "" 0:0 coredns "$BUNDLE/coredns/bin/coredns"
image "flannel:$(cat "$BUNDLE/flannel/version")" "$store/iptables.tar" 0:0 flanneld "$BUNDLE/flannel/bin/flanneld"
image "metrics-server:$(cat "$BUNDLE/metrics-server/version")" "" 65532:65532 metrics-server "$BUNDLE/metrics-server/bin/metrics-server"
keda=$(cat "$BUNDLE/keda/version")
image "keda-operator:$keda" "" 65532:65532 operator "$BUNDLE/keda/bin/operator"
image "keda-adapter:$keda" "" 65532:65532 adapter "$BUNDLE/keda/bin/adapter"
image "keda-webhooks:$keda" "" 65532:65532 webhooks "$BUNDLE/keda/bin/webhooks"
image "pause:$(dpkg-query -W -f '${Version}' catatonit | tr '+~:' '---')" "" 65532:65532 "catatonit -P" /usr/bin/catatonit

for archive in "$OUT"/*.tar; do
  name=${archive%.tar}
  tar -xOf "$archive" index.json | sed -n 's/.*"org.opencontainers.image.ref.name":"\([^"]*\)".*/\1/p' >"$name.name"
  sed 's/.*://' "$name.name" >"$name.version"
done
