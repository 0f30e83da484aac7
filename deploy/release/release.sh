#!/usr/bin/env bash
# release.sh [amd64|arm64 ...]: all that a release has, in build/release: the binaries, their Debian packages, the bill of
# materials, SHA256SUMS. Both architectures if none is named. The version is that of deno.json; CHANGELOG.md has to tell of it,
# and the tree to be committed. $DENO is the deno to be used, if not the one in the PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
deno=${DENO:-deno}
refuse() { echo "release: $1" >&2; exit 1; }

version=$(sed -n 's/^ *"version": "\(.*\)",/\1/p' deno.json)
[[ $version =~ ^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$ ]] ||
  refuse "Cannot release version '$version' of deno.json: wanted a semantic version, such as '1.2.3'"
notes=$(awk -v head="## [$version]" 'index($0, head) == 1 { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md 2>/dev/null || true)
[[ $notes =~ [^[:space:]] ]] || refuse "Cannot release '$version': CHANGELOG.md has nothing below a line '## [$version]'"
[ -z "$(git status --porcelain)" ] || refuse "Cannot release '$version': there are changes that are not committed"
tagged=$(git rev-parse -q --verify "refs/tags/v$version^{commit}" || true)
[ -z "$tagged" ] || [ "$tagged" = "$(git rev-parse HEAD)" ] ||
  refuse "Cannot release '$version': the tag 'v$version' is another commit"

export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
out=build/release
rm -rf "$out"
mkdir -p "$out"
for arch in "${@:-amd64 arm64}"; do architectures+=" $arch"; done
for arch in $architectures; do
  case $arch in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *) refuse "Cannot build for '$arch': wanted 'amd64' or 'arm64'" ;;
  esac
  binary=$out/etcd-pg-sync-$version-linux-$arch
  $deno task --quiet compile $target "$binary"
  [ $target != "$(uname -m)-unknown-linux-gnu" ] || runs=$binary
done
runtime=$([ -z "${runs:-}" ] || "$runs" --version | sed 's/.*Deno \(.*\))/\1/') # that of the binary, where one runs here
$deno task --quiet sbom $runtime >"$out/etcd-pg-sync-$version.cdx.json"
for arch in $architectures; do
  bash deploy/release/deb.sh "$out/etcd-pg-sync-$version-linux-$arch" "$arch" "$out/etcd-pg-sync-$version.cdx.json" "$out"
done
(cd "$out" && sha256sum etcd-pg-sync* >SHA256SUMS)
cat "$out/SHA256SUMS"
