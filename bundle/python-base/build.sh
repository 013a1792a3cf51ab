# Python with as little of Debian 12 as it needs: the base of the images of functions, gateway and console.
# No shell and no package manager. Compiled wheels need libstdc++6, libgomp1 and zlib1g. ldconfig is for
# ctypes.util.find_library, and for Debian packages that a function adds.
name=bundle.koren.internal/python-base
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
buildah() { command buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }
# A fixed time, so that the same packages give the same image.
export SOURCE_DATE_EPOCH=315532800

root=$store/rootfs
mkdir "$root"
for deb in "$DEBS"/*.deb; do
  dpkg-deb --extract "$deb" "$root"
  dpkg-deb --show --showformat '${Package} ${Version}\n' "$deb" >>"$OUT/packages"
  { dpkg-deb --field "$deb" && printf 'Status: install ok installed\n\n'; } >>"$OUT/dpkg-status"
done
version=$(sed -n 's/^python3.11-minimal //p' "$OUT/packages")
# A tag has no '+' and '~'.
echo "${version//[+~:]/-}" >"$OUT/version"

# Packages are only unpacked, so this creates what their installation scripts would create.
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
ln -s python3.11 "$root/usr/bin/python3"
printf 'root:x:0:0:root:/:/usr/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/usr/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
chroot "$root" /sbin/ldconfig
rm -f "$root"/usr/bin/{c_rehash,debconf*,dpkg*,openssl,update-alternatives} "$root/bin/tar"
rm -f "$root"/usr/bin/{catchsegv,getconf,getent,iconv,ldd,locale,localedef,pldd,tzselect,zdump}
rm -rf "$root"/usr/{games,sbin,src} "$root"/usr/share/{debconf,gdb,info,lintian,locale,man,perl5} "$root"/usr/lib/locale \
  "$root"/etc/{alternatives,apt,ca-certificates,cron.daily,debconf.conf,dpkg,fstab,hostname,logrotate.d,resolv.conf} \
  "$root"/var/{cache,lib}/* "$root"/dev/* "$root"/usr/lib/python3.11/test
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
# A pod can't write byte-code and has no time to compile it. It is unchecked, since layers lose file times.
chroot "$root" /usr/bin/python3.11 -I -S -m compileall -q --invalidation-mode unchecked-hash \
  /usr/lib/python3.11
chroot "$root" /usr/bin/python3.11 -I -c 'import asyncio, bz2, ctypes, lzma, sqlite3, ssl, zoneinfo
for library in ("libgcc_s.so.1", "libgomp.so.1", "libstdc++.so.6", "libz.so.1"):
    ctypes.CDLL(library)
zoneinfo.ZoneInfo("Asia/Seoul")
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100'

container=$(buildah from scratch)
buildah copy -q "$container" "$root" /
buildah config --user 65532:65532 --workingdir /tmp --env PATH=/usr/bin:/bin --env LANG=C.UTF-8 \
  --entrypoint '["/usr/bin/python3.11"]' "$container"
buildah commit -q --rm --timestamp "$SOURCE_DATE_EPOCH" "$container" "$name:$(cat "$OUT/version")" >/dev/null
buildah push -q "$name:$(cat "$OUT/version")" "oci-archive:$OUT/image.tar:$name:$(cat "$OUT/version")"
