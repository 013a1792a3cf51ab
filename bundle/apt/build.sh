# needs: host-image
# One small apt repository for each set of hosts. <set>.txt lists packages; packages.lock adds their dependencies that the
# host image lacks.
# A line @<set> includes the packages of that set.
cp packages.lock "$OUT/"
for list in *.txt; do
  set=${list%.txt}
  mkdir "$OUT/$set"
  while read -r name; do
    case $name in @*) cat "${name#@}.txt" ;; *) echo "$name" ;; esac
  done <"$list" >"$OUT/$set/packages"
  awk -v set="$set" '!/^#/ && ("," $6 ",") ~ ("," set ",") { sub(".*/", "", $5); print $5 }' packages.lock |
    while read -r file; do cp "$DEBS/$file" "$OUT/$set/"; done
  (cd "$OUT/$set" && dpkg-scanpackages --multiversion . /dev/null >Packages 2>/dev/null && apt-ftparchive release . >Release)
done
