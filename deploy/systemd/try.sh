#!/bin/bash
# Runs the unit under a real systemd, in a container over a throw-away layer of this machine's files: start, put, get, SIGKILL, start by itself, get, stop.
# Needs root, systemd-nspawn (Debian: systemd-container) and a file system that overlayfs can lie on. Nothing outside the layer changes.
#
#   cargo build --release && sudo deploy/systemd/try.sh target/release/forebay
set -euo pipefail
binary=$(realpath "${1:?usage: try.sh PATH/TO/forebay}")
unit=$(dirname "$(realpath "$0")")/forebay.service
place=$(mktemp -d /var/tmp/forebay-unit.XXXXXX)
trap 'umount "$place/root" 2>/dev/null || true; rm -rf "$place"' EXIT
mkdir "$place"/{layer,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/layer,workdir=$place/work" "$place/root"
root=$place/root

install -D -m 755 "$binary" "$root/usr/local/bin/forebay"
install -D -m 644 "$unit" "$root/etc/systemd/system/forebay.service"
sed -i 's/^User=.*/User=inference/' "$root/etc/systemd/system/forebay.service"
chroot "$root" useradd --system --create-home inference 2>/dev/null || true
mkdir -p "$root/etc/forebay"
printf 'capacity = "2GiB"\nmemory = "512MiB"\n' > "$root/etc/forebay/forebay.toml"

cat > "$root/usr/local/bin/try-forebay" <<'INSIDE'
#!/bin/bash
exec > /try.log 2>&1
as() { runuser -u inference -- env FOREBAY_CONNECT=unix:/run/forebay/forebay.sock "$@"; }
pid() { systemctl show -p MainPID --value forebay; }
set -ex
cd "$(mktemp -d)"; chmod 755 .; mkdir back; chown inference back
systemctl start forebay
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp)' "/proc/$(pid)/status"
grep -q '^Seccomp:.2' "/proc/$(pid)/status"
head -c 1MB /dev/urandom > block
key=$(as forebay put block | cut -f1)
as forebay get "$key" --out back; cmp block "back/$key"
as forebay bench --seconds 2 --size 64KiB
as forebay stat | grep -c .
first=$(pid)
systemctl kill -s KILL forebay
for _ in $(seq 50); do sleep 0.2; [ "$(systemctl is-active forebay)" = active ] && [ "$(pid)" != "$first" ] && break; done
as forebay get "$key" --out back; cmp block "back/$key"
systemctl stop forebay
[ "$(systemctl show -p Result --value forebay)" = success ]
journalctl -u forebay --no-pager -o cat | grep 'drives are sealed'
touch /try.passed
INSIDE
chmod 755 "$root/usr/local/bin/try-forebay"
cat > "$root/etc/systemd/system/try-forebay.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/bin/try-forebay
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf /etc/systemd/system/try-forebay.service "$root/etc/systemd/system/multi-user.target.wants/"

# The container's own filter would forbid io_uring before the unit's could.
timeout 300 systemd-nspawn -q -D "$root" --boot --private-network --register=no --keep-unit \
    --system-call-filter="io_uring_setup io_uring_enter io_uring_register" > "$place/console" 2>&1 || true
cat "$root/try.log" 2>/dev/null || cat "$place/console"
if [ -e "$root/try.passed" ]; then
    echo "the unit works under systemd $(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
else
    echo "the unit did not work; what happened stands above" >&2
    exit 1
fi
