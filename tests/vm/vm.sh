#!/bin/bash
# vm.sh - a throw-away Debian 12 + systemd + cgroup v2 machine for tests (no network in the guest).
#
#   vm.sh deps                     apt-get install qemu-system-x86, mmdebstrap, cpio (host, needs root)
#   vm.sh build                    make  $VM_DIR/base.ext4, vmlinuz, initrd      (host, needs root, ~1.5 min, once)
#   vm.sh run DIR [ARG...]         boot it, copy DIR to /payload, run /payload/run.sh ARG... as a systemd service,
#                                  print its output, bring /out back to $VM_OUT, exit with run.sh's exit code
#   vm.sh python ARG...            the guest's Python, run here and not emulated: to compile what the guest will import
# Environment: VM_DIR (cache, default ~/.cache/ai-supervisor-vm)  VM_MEM=1024 (MiB)  VM_CPUS=2  VM_TIMEOUT=300 (s)
#   VM_ACCEL=auto|kvm|tcg  VM_PKGS="extra debian packages"  VM_APPEND="extra kernel words"
#   VM_OUT=$VM_DIR/out  VM_CONSOLE=$VM_DIR/console.log
# Notes: no KVM is needed (emulated boot to payload 8-17 s on 2 cores); /dev/kvm is used only if the CPU really has vmx/svm.
#   The image is never written to (snapshot=on), so runs can go in parallel. VM_SUITE=trixie + own VM_DIR gives systemd 257.
#   VM_CPU: cx16 stays off for emulation: kernel 6.12 panics under QEMU 7.2 TCG with it.
# Exit: run.sh's code; 124 = VM_TIMEOUT hit; 125 = the guest never reported a code (see VM_CONSOLE).
set -euo pipefail
VM_DIR=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ai-supervisor-vm}; VM_MEM=${VM_MEM:-1024}; VM_CPUS=${VM_CPUS:-2}; VM_TIMEOUT=${VM_TIMEOUT:-300}
VM_ACCEL=${VM_ACCEL:-auto}; VM_PKGS=${VM_PKGS:-}; VM_APPEND=${VM_APPEND:-}
VM_OUT=${VM_OUT:-$VM_DIR/out}; VM_CONSOLE=${VM_CONSOLE:-$VM_DIR/console.log}
VM_SUITE=${VM_SUITE:-bookworm}
# the mirror this machine's own apt is set up with
VM_MIRROR=${VM_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | awk '!/security/ && !n++')}
# small boot: only what a service manager test needs; ext4 is built into this kernel, virtio_* are modules
PKGS=systemd,systemd-sysv,dbus,udev,linux-image-cloud-amd64,busybox-static,python3,util-linux,procps,kmod,nftables

deps() { apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends qemu-system-x86 mmdebstrap e2fsprogs cpio; }

build() {
  mkdir -p "$VM_DIR"; local root="$VM_DIR/root" tar="$VM_DIR/rootfs.tar" inc="$PKGS${VM_PKGS:+,${VM_PKGS// /,}}"
  if [ ! -s "$tar" ] || [ "$(cat "$VM_DIR/rootfs.pkgs" 2>/dev/null)" != "$inc" ]; then
    mmdebstrap --variant=minbase --include="$inc" --aptopt='Acquire::Languages "none"' \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' "$VM_SUITE" "$tar" "$VM_MIRROR"
    echo "$inc" >"$VM_DIR/rootfs.pkgs"
  fi
  rm -rf "$root"; mkdir "$root"; tar -C "$root" -xf "$tar"
  # our own initrd (the stock one costs 15 MB and 5 s under emulation): busybox, four disk modules, switch_root
  local ird="$VM_DIR/ird" kv; kv=$(ls "$root/lib/modules"); rm -rf "$ird"; mkdir -p "$ird"/{bin,dev,proc,root,m}
  cp "$root/bin/busybox" "$ird/bin/"; ln -s busybox "$ird/bin/sh"
  chroot "$root" /sbin/depmod "$kv"
  local ko; : >"$ird/m/list"
  for ko in $(chroot "$root" /sbin/modprobe -S "$kv" --show-depends -a virtio_pci virtio_blk | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!s[$0]++'); do
    case $ko in *.xz) xz -dc "$root$ko" >"$ird/m/$(basename "${ko%.xz}")";; *.zst) zstd -qdc "$root$ko" >"$ird/m/$(basename "${ko%.zst}")";; *) cp "$root$ko" "$ird/m/";; esac
    ko=$(basename "$ko"); ko=${ko%.xz}; echo "${ko%.zst}" >>"$ird/m/list"; done
  cat >"$ird/init" <<'U'
#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r k; do /bin/busybox insmod /m/$k; done </m/list
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do /bin/busybox usleep 50000; i=$((i+1)); done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root
exec /bin/busybox switch_root /root /lib/systemd/systemd
U
  chmod +x "$ird/init"; (cd "$ird" && find . | cpio -o -H newc --quiet | gzip -1) >"$VM_DIR/initrd"; rm -rf "$ird"
  cp "$root"/boot/vmlinuz-* "$VM_DIR/vmlinuz"; rm -rf "$root"/boot/*
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  echo ai-vm >"$root/etc/hostname"; : >"$root/etc/fstab"
  echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"   # a fixed id: no slow first-boot presets
  # nothing here needs a login, the network, devices, clocks or housekeeping
  local u; for u in getty@tty1.service serial-getty@.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer \
     dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service systemd-firstboot.service systemd-networkd.service \
     systemd-networkd.socket systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-udevd.service \
     systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket kmod-static-nodes.service \
     systemd-modules-load.service modprobe@.service systemd-tmpfiles-setup-dev.service systemd-remount-fs.service \
     systemd-sysusers.service systemd-random-seed.service systemd-machine-id-commit.service systemd-binfmt.service \
     proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
     sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-pstore.service systemd-journal-flush.service \
     systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service systemd-user-sessions.service \
     systemd-ask-password-wall.path systemd-ask-password-console.path systemd-logind.service systemd-boot-system-token.service \
     systemd-sysctl.service systemd-tmpfiles-clean.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$u"; done
  mkdir -p "$root/etc/systemd/journald.conf.d"; printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/vm.conf"
  cat >"$root/etc/systemd/system/ai-vm.service" <<'U'
[Unit]
Description=run the payload of vm.sh, then power off
After=basic.target dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/ai-vm-run
StandardOutput=file:/dev/ttyS1
StandardError=inherit
Delegate=yes
TimeoutStartSec=infinity
U
  ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -sf ../ai-vm.service "$root/etc/systemd/system/multi-user.target.wants/ai-vm.service"
  cat >"$root/usr/local/sbin/ai-vm-run" <<'U'
#!/bin/sh
stty -F /dev/ttyS1 raw -echo 2>/dev/null
mkdir -p /payload /out; tar -C /payload -xf /dev/vdb
echo "@@AI-VM up $(cut -d' ' -f1 /proc/uptime)"
set --; [ -f /payload/.ai-vm-args ] && while IFS= read -r a; do set -- "$@" "$a"; done </payload/.ai-vm-args
cd /payload && /bin/sh ./run.sh "$@"; rc=$?
tar -C /out -cf /dev/vdc . 2>/dev/null; sync
echo "@@AI-VM rc $rc up $(cut -d' ' -f1 /proc/uptime)"
U
  chmod +x "$root/usr/local/sbin/ai-vm-run"
  local mb=$(( $(du -sm "$root" | cut -f1) + 400 ))
  rm -f "$VM_DIR/base.ext4"; truncate -s "${mb}M" "$VM_DIR/base.ext4"
  mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$root" "$VM_DIR/base.ext4"
  rm -rf "$root"; ls -lahs "$VM_DIR/base.ext4" "$VM_DIR/vmlinuz" "$VM_DIR/initrd"
}

# An emulated guest takes a minute to compile what one daemon imports; its own Python does it here in seconds.
python() {
  local py=$VM_DIR/python lib=usr/lib/x86_64-linux-gnu
  if [ ! -d "$py" ]; then
    rm -rf "$py.new"; mkdir "$py.new"
    tar -C "$py.new" -xf "$VM_DIR/rootfs.tar" --wildcards --no-same-owner ./usr/bin/python3\* ./usr/lib/python3\* ./$lib
    mv "$py.new" "$py"
  fi
  PYTHONHOME=$py/usr "$py/$lib/ld-linux-x86-64.so.2" --library-path "$py/$lib" "$(readlink -f "$py/usr/bin/python3")" "$@"
}

run() {
  local dir=$1; shift; local w; w=$(mktemp -d "$VM_DIR/run.XXXXXX"); trap 'rm -rf "$w"' RETURN
  : >"$w/.ai-vm-args"; [ $# -eq 0 ] || printf '%s\n' "$@" >"$w/.ai-vm-args"
  tar -cf "$w/in.tar" -C "$dir" . -C "$w" ./.ai-vm-args; truncate -s %4096 "$w/in.tar"
  truncate -s 256M "$w/out.img"                       # sparse
  local acc=(); case $VM_ACCEL in
    auto) [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo && acc=(-accel kvm -cpu "${VM_CPU:-host,-arch-capabilities}") || acc=(-accel tcg,thread=multi -cpu "${VM_CPU:-qemu64,-cx16}");;
    kvm) acc=(-accel kvm -cpu "${VM_CPU:-host,-arch-capabilities}");; tcg) acc=(-accel tcg,thread=multi -cpu "${VM_CPU:-qemu64,-cx16}");; esac
  local rc=0
  timeout -k 5 "$VM_TIMEOUT" qemu-system-x86_64 "${acc[@]}" -machine q35 -m "$VM_MEM" -smp "$VM_CPUS" \
    -nodefaults -no-user-config -display none -no-reboot -nic none \
    -kernel "$VM_DIR/vmlinuz" -initrd "$VM_DIR/initrd" \
    -append "console=ttyS0 quiet loglevel=4 panic=-1 psi=1 systemd.show_status=0 systemd.unified_cgroup_hierarchy=1 systemd.log_level=notice mitigations=off $VM_APPEND" \
    -drive file="$VM_DIR/base.ext4",if=virtio,format=raw,snapshot=on,cache=unsafe \
    -drive file="$w/in.tar",if=virtio,format=raw,readonly=on \
    -drive file="$w/out.img",if=virtio,format=raw,cache=unsafe \
    -chardev file,id=c0,path="$VM_CONSOLE" -serial chardev:c0 \
    -chardev file,id=c1,path="$w/serial1" -serial chardev:c1 </dev/null & local q=$!
  trap 'kill $q 2>/dev/null || true' INT TERM
  ( while [ ! -e "$w/serial1" ] && kill -0 $q 2>/dev/null; do sleep .1; done; tail -n +1 -s .2 --pid=$q -f "$w/serial1" 2>/dev/null | sed -u 's/\r//g' ) & local t=$!
  wait $q || rc=$?; wait $t || true
  [ $rc -eq 0 ] || { [ $rc -eq 124 ] && echo "vm.sh: time limit of $VM_TIMEOUT s" >&2; return $rc; }
  rm -rf "$VM_OUT"; mkdir -p "$VM_OUT"; tar -C "$VM_OUT" -xf "$w/out.img" 2>/dev/null || true
  rc=$(tr -d '\r' <"$w/serial1" | sed -n 's/^@@AI-VM rc \([0-9]*\).*/\1/p' | tail -1); return "${rc:-125}"
}

cmd=${1:-help}; shift || true
case $cmd in deps) deps;; build) build;; python) python "$@";; run) run "$@";; *) sed -n '2,/^set -/p' "$0" | sed '$d';; esac
