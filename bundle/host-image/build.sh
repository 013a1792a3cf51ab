# The image of the local driver's hosts: a minimal Debian 12 with systemd and SSH, as a cloud's image has.
mmdebstrap --quiet --variant=minbase \
  --include=systemd,systemd-sysv,dbus,udev,iproute2,iptables,nftables,conntrack,socat,ethtool,kmod \
  --include=ca-certificates,python3,python3-apt,openssh-server,sudo,procps,runc,ebtables,rsync \
  --customize-hook='rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/apt/sources.list; : >"$1/etc/machine-id"' \
  --customize-hook='chroot "$1" systemctl mask getty@tty1.service getty.target systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service systemd-logind.service systemd-timesyncd.service' \
  --customize-hook='printf "force-unsafe-io\n" >"$1/etc/dpkg/dpkg.cfg.d/unsafe-io"' \
  --customize-hook='printf "[Unit]\nBefore=ssh.service\nConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n[Install]\nWantedBy=multi-user.target\n" >"$1/etc/systemd/system/ssh-host-keys.service"; chroot "$1" systemctl enable ssh-host-keys.service' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  bookworm "$OUT/rootfs.tar"
tar -xOf "$OUT/rootfs.tar" ./var/lib/dpkg/status >"$OUT/dpkg-status"
