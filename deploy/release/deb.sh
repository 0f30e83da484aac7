#!/usr/bin/env bash
# deb.sh BINARY ARCH SBOM OUT: a Debian package of the compiled program, ARCH as Debian names it (amd64, arm64).
# $DENO is the deno to be used, if not the one in the PATH; it prints what the binary of another machine cannot. $DEBFULLNAME
# and $DEBEMAIL are whoever answers for the package; without them it names nobody.
set -euo pipefail
[ $# = 4 ] || { echo "usage: deb.sh BINARY ARCH SBOM OUT" >&2; exit 1; }
binary=$(realpath "$1") arch=$2 sbom=$(realpath "$3") out=$(realpath -m "$4")
cd "$(dirname "$0")/../.."
deno=${DENO:-deno}
version=$(sed -n 's/^ *"version": "\(.*\)",/\1/p' deno.json)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
date=$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
contact="${DEBFULLNAME:-etcd-pg-sync} <${DEBEMAIL:-etcd-pg-sync@packages.invalid}>"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
umask 022
put() { install -D -m "$1" "$2" "$root$3"; }                    # mode, file, place
pack() { mkdir -p "$(dirname "$root$1")" && gzip -9n >"$root$1"; } # place; from standard input
doc=/usr/share/doc/etcd-pg-sync

put 755 "$binary" /usr/bin/etcd-pg-sync
for unit in deploy/systemd/*.service; do put 644 "$unit" "/lib/systemd/system/$(basename "$unit")"; done
put 644 deploy/debian/config.yaml /etc/etcd-pg-sync/config.yaml
install -d -m 755 "$root/etc/etcd-pg-sync/secrets"
put 644 deploy/debian/copyright $doc/copyright
put 644 deploy/debian/lintian-overrides /usr/share/lintian/overrides/etcd-pg-sync
put 644 deploy/prometheus/etcd-pg-sync.rules.yml $doc/examples/etcd-pg-sync.rules.yml
put 644 deploy/grafana/etcd-pg-sync.json $doc/examples/etcd-pg-sync.json
for script in deploy/rights/*; do put 644 "$script" "$doc/examples/$(basename "$script")"; done
pack $doc/sbom.cdx.json.gz <"$sbom"
pack $doc/changelog.gz <CHANGELOG.md
printf 'etcd-pg-sync (%s) stable; urgency=medium\n\n  * Release %s, see changelog.gz.\n\n -- %s  %s\n' \
  "$version" "$version" "$contact" "$date" | pack $doc/changelog.Debian.gz
program() { $deno run --quiet --no-prompt --allow-read --allow-env --allow-sys "$@"; }
program deploy/release/man.ts | pack /usr/share/man/man1/etcd-pg-sync.1.gz
mkdir -p "$root"/usr/share/{bash-completion/completions,fish/vendor_completions.d,zsh/vendor-completions}
program main.ts completion bash >"$root/usr/share/bash-completion/completions/etcd-pg-sync"
program main.ts completion zsh >"$root/usr/share/zsh/vendor-completions/_etcd-pg-sync"
program main.ts completion fish >"$root/usr/share/fish/vendor_completions.d/etcd-pg-sync.fish"

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "deploy/debian/$script" "$root/DEBIAN/"; done
echo /etc/etcd-pg-sync/config.yaml >"$root/DEBIAN/conffiles"
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<CONTROL
Package: etcd-pg-sync
Version: $version
Architecture: $arch
Maintainer: $contact
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: adduser, libc6 (>= 2.27), libgcc-s1 (>= 4.2), init-system-helpers (>= 1.54)
Suggests: etcd-client, postgresql-client
Section: database
Priority: optional
Description: keep a PostgreSQL database and an etcd keyspace in step
 What etcd has is a view in SQL, with its history; what SQL writes to that
 view arrives in etcd, a transaction as one transaction. It can be killed at
 any instant and loses or repeats no write.
 .
 Any number of instances may run for a stream; one works, the others stand by.
CONTROL
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz -z3 --build "$root" "$out/etcd-pg-sync_${version}_$arch.deb" >&2
