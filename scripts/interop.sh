#!/usr/bin/env bash
# Installs real servers from their registries into .cache/interop and runs the
# tests that millrace passes on them:
#
#   Eclipse Mosquitto       Debian, by apt-get download (no root needed), or the one on PATH
#   pymodbus, asyncua       PyPI, in a virtual environment; zstandard and cryptography too, for docs/*.py
#   ElasticMQ               Maven Central
#   Eclipse Milo            Maven Central; a client of the gateway's own OPC UA server
#   DynamoDB Local          Maven Central; its licence forbids passing it on, so it stays in .cache
#
# A test whose server cannot be installed is skipped and named at the end. With
# CI set that is a failure, unless this machine cannot have that server at all.
# Arguments are handed to go test: scripts/interop.sh -run Modbus
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
cache=$root/.cache/interop
servers=$root/internal/interop/servers
mkdir -p "$cache"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

failed=()  # should be here, and could not be installed
excused=() # cannot be had on this machine, each with the reason: "name: why"

have() { command -v "$1" >/dev/null; }

# install NAME STAMP FUNCTION installs unless the same version is there.
install() {
	local name=$1 stamp=$2 how=$3
	if [ -f "$cache/$name/.installed" ] && [ "$(cat "$cache/$name/.installed")" = "$stamp" ]; then
		echo "interop: $name $stamp is installed"
		return 0
	fi
	echo "interop: installing $name $stamp"
	rm -rf "${cache:?}/$name"
	mkdir -p "$cache/$name"
	if "$how" "$cache/$name" >"$logs/$name" 2>&1; then
		echo "$stamp" >"$cache/$name/.installed"
		return 0
	fi
	echo "interop: $name could not be installed:" >&2
	tail -n 8 "$logs/$name" | sed 's/^/    /' >&2
	failed+=("$name")
	return 1
}

# Functions called through install run without set -e, so their steps are
# joined by &&.
install_mosquitto() {
	local packages
	# What is missing here, mosquitto itself among it; nothing is installed.
	packages=$(apt-get -s install --no-install-recommends mosquitto | awk '/^Inst/ {print $2}') || packages=
	if [ -z "$packages" ] && [ "$(id -u)" = 0 ]; then
		apt-get update &&
			packages=$(apt-get -s install --no-install-recommends mosquitto | awk '/^Inst/ {print $2}')
	fi
	[ -n "$packages" ] || return 1
	(
		# shellcheck disable=SC2086
		cd "$1" && apt-get download $packages &&
			for deb in *.deb; do dpkg -x "$deb" . || exit 1; done &&
			rm -- *.deb
	) && cat >"$1/mosquitto" <<-'RUN'
		#!/bin/sh
		here=$(dirname "$0")
		for dir in "$here"/usr/lib/*-linux-gnu* "$here"/lib/*-linux-gnu*; do
			LD_LIBRARY_PATH=$dir:${LD_LIBRARY_PATH:-}
		done
		export LD_LIBRARY_PATH
		exec "$here/usr/sbin/mosquitto" "$@"
	RUN
	# Its exit code for -h is not 0, so the text is looked at.
	chmod +x "$1/mosquitto" && [ -n "$("$1/mosquitto" -h | sed -n '/^mosquitto version/p')" ]
}

install_python() {
	"$python" -m venv "$1" &&
		"$1/bin/pip" install --quiet --requirement "$servers/requirements.txt" &&
		"$1/bin/python" -c 'import asyncua, cryptography, pymodbus, zstandard'
}

install_jars() {
	mvn --batch-mode --quiet --file "$servers/$(basename "$1").pom.xml" \
		dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1"
}

version_in() { sed -n "s|.*<version>\([0-9.]*\.[0-9.]*\)</version>.*|\1|p" "$servers/$1.pom.xml"; }

if have mosquitto; then
	export MILLRACE_INTEROP_MOSQUITTO=$(command -v mosquitto)
elif have apt-get && have dpkg; then
	stamp=$(apt-cache policy mosquitto | sed -n 's/ *Candidate: //p')
	install mosquitto "debian-${stamp:-?}" install_mosquitto &&
		export MILLRACE_INTEROP_MOSQUITTO=$cache/mosquitto/mosquitto
else
	excused+=("mosquitto: neither on PATH nor is there apt-get")
fi || true

# Debian's own interpreter has the venv module's parts; one from elsewhere may not.
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3 || true)
if [ -n "$python" ]; then
	install python "$(grep -v '^#' "$servers/requirements.txt" | paste -sd ' ')" install_python &&
		export MILLRACE_INTEROP_PYTHON=$cache/python/bin/python PATH=$cache/python/bin:$PATH
else
	excused+=("python: there is no python3")
fi || true

if have java && have mvn; then
	install elasticmq "$(version_in elasticmq)" install_jars &&
		export MILLRACE_INTEROP_ELASTICMQ=$cache/elasticmq
	install milo "$(version_in milo)" install_jars &&
		export MILLRACE_INTEROP_MILO=$cache/milo
	if [ "$(uname -m)" = x86_64 ]; then
		install dynamodb "$(version_in dynamodb)" install_jars &&
			export MILLRACE_INTEROP_DYNAMODB=$cache/dynamodb
	else
		excused+=("dynamodb: its native library is for x86_64 only")
	fi
else
	excused+=("elasticmq: java and mvn are needed" "milo: java and mvn are needed" "dynamodb: java and mvn are needed")
fi || true

echo
code=0
go test -tags interop -count 1 -timeout 20m -v ./internal/interop/... ./sample/block/... ./sample/result/... "$@" 2>&1 | tee "$logs/test" |
	grep -vE '^(=== |[[:space:]]*--- PASS|PASS$)' || code=${PIPESTATUS[0]}

# Tests are counted at the top level. A skip for want of the server is one
# thing; a check that a server is known not to pass, and that says why, another.
passed=$(grep -c '^--- PASS' "$logs/test" || true)
skips=$(awk '
	/^=== (RUN|NAME|CONT) / {name = $3; next}
	/^ *[a-z_0-9]*\.go:[0-9]+: / {text = $0; sub(/^ *[a-z_0-9]*\.go:[0-9]+: /, "", text); last[name] = text}
	/^ *--- SKIP: / {print $3 ": " last[$3]}' "$logs/test")
absent=$(grep 'is not installed' <<<"$skips" || true)
known=$(grep -v 'is not installed' <<<"$skips" | grep . || true)
skipped=$(grep -c . <<<"$absent" || true)
# A skip is excused by its own server only.
unexcused=$absent
for why in "${excused[@]}"; do
	unexcused=$(grep -v ": ${why%%:*}.* is not installed" <<<"$unexcused" || true)
done

echo
if [ -n "$known" ]; then
	echo "Known to differ there, and not asked of it:"
	sed 's/^/  /' <<<"$known"
fi
if [ -n "$absent" ]; then
	echo "Skipped, since the server is not here:"
	sed 's/^/  /' <<<"$absent"
fi
for why in "${excused[@]}"; do echo "Not to be had on this machine: $why"; done
for name in "${failed[@]}"; do echo "Could not be installed: $name"; done
if [ "$code" != 0 ]; then
	echo "interop: FAILED, $passed passed, $skipped skipped"
	exit 1
fi
if [ -n "${CI:-}" ] && { [ ${#failed[@]} -gt 0 ] || [ -n "$unexcused" ]; }; then
	echo "interop: FAILED, $passed passed, $skipped skipped, of which $(grep -c . <<<"$unexcused" || true) should run"
	exit 1
fi
echo "interop: $passed passed, $skipped skipped"
