# The image of the local driver's hosts: a minimal Debian 12 with the packages of common cloud images, and a mirror that it can't
# reach, as in a region without internet access. The packages are kept beside it to patch hosts with an older image.
mkdir "$OUT/packages"
cp "$DEBS"/*.deb "$OUT/packages/"
cp packages.lock "$OUT/"
(cd "$OUT/packages" && dpkg-scanpackages --multiversion . /dev/null >Packages 2>/dev/null && apt-ftparchive -o APT::FTPArchive::Release::Codename=bookworm release . >Release)
mmdebstrap --quiet --variant=minbase --include="$(paste -sd , image.txt)" \
  --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*; : >"$1/etc/machine-id"' \
  --customize-hook='echo "deb http://mirror.invalid/debian bookworm main" >"$1/etc/apt/sources.list"; rm -rf "$1"/var/lib/apt/lists/*' \
  --customize-hook='chroot "$1" systemctl mask getty@tty1.service getty.target systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service systemd-logind.service systemd-timesyncd.service' \
  --customize-hook='printf "force-unsafe-io\n" >"$1/etc/dpkg/dpkg.cfg.d/unsafe-io"' \
  --customize-hook='printf "[Unit]\nBefore=ssh.service\nConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n[Install]\nWantedBy=multi-user.target\n" >"$1/etc/systemd/system/ssh-host-keys.service"; chroot "$1" systemctl enable ssh-host-keys.service' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  bookworm "$OUT/rootfs.tar" "deb [trusted=yes] copy:$OUT/packages ./"
