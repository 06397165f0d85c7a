#!/usr/bin/env bash
# Checks the systemd unit: its syntax, and that its exposure is 2.0 or less by
# systemd's own measure. Exits 0 when both hold, 1 when one does not, and 77
# when systemd-analyze is not here and cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

unit=${1:-systemd/millrace.service}
most=20 # tenths of an exposure level

if ! command -v systemd-analyze >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "check-unit: installing systemd for systemd-analyze"
	apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends systemd >/dev/null
fi
if ! command -v systemd-analyze >/dev/null; then
	echo "check-unit: skipped, systemd-analyze is not installed" >&2
	exit 77
fi

# verify wants the program to be there, so the copy names one that is. The
# drop-in's keys are known from 254 on.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed 's#^ExecStart=/usr/bin/millrace #ExecStart=/bin/true #' "$unit" >"$work/millrace.service"
version=$(systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
if [ "$version" -ge 254 ]; then
	cp -r systemd/millrace.service.d "$work/"
fi
findings=$(systemd-analyze verify "$work/millrace.service" 2>&1 || true)
if [ -n "$findings" ]; then
	echo "check-unit: systemd-analyze verify is not content:" >&2
	echo "$findings" >&2
	exit 1
fi
echo "check-unit: verify is clean (systemd $version)"

if ! report=$(systemd-analyze security --offline=true --threshold="$most" --no-pager "$work/millrace.service" 2>&1); then
	echo "$report" | grep '^-' >&2
	echo "check-unit: the exposure is above $((most / 10)).$((most % 10))" >&2
	exit 1
fi
echo "check-unit: $(echo "$report" | sed -n 's/^-> \(.*[0-9]\).*/\1/p')"
