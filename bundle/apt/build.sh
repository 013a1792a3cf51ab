# needs: host-image
# One small apt repository a set of hosts: each <set>.txt lists packages, their closure over the host image comes along.
# A line @<set> stands for the packages of that set.
for list in *.txt; do
  set=${list%.txt}
  state=$(mktemp -d)
  mkdir -p "$state/lists/partial" "$state/archives/partial" "$OUT/$set"
  cp "$BUNDLE/host-image/dpkg-status" "$state/status"
  apt_set=(apt-get -q -y -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::State::lists="$state/lists"
    -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives" -o APT::Install-Recommends=false -o Debug::NoLocking=true)
  while read -r name; do
    case $name in @*) cat "${name#@}.txt" ;; *) echo "$name" ;; esac
  done <"$list" >"$OUT/$set/packages"
  "${apt_set[@]}" update
  xargs -a "$OUT/$set/packages" "${apt_set[@]}" install --download-only
  mv "$state"/archives/*.deb "$OUT/$set/"
  (cd "$OUT/$set" && dpkg-scanpackages --multiversion . /dev/null >Packages 2>/dev/null && apt-ftparchive release . >Release)
  rm -rf "$state"
done
