#!/usr/bin/env bash
# Installs real servers from their registries into .cache/interop and runs the
# gateway's tests on them:
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
# The cloud half's tests on real parts are in scripts/interop-cloud.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/interop-common.sh
. scripts/interop-common.sh

install_mosquitto() {
	unpack_debian mosquitto "$1" && cat >"$1/mosquitto" <<-'RUN'
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
	install_venv "$1" && "$1/bin/python" -c 'import asyncua, cryptography, pymodbus, zstandard'
}

if have mosquitto; then
	export MILLRACE_INTEROP_MOSQUITTO=$(command -v mosquitto)
elif have apt-get && have dpkg; then
	stamp=$(apt-cache policy mosquitto | sed -n 's/ *Candidate: //p')
	install mosquitto "debian-${stamp:-?}" install_mosquitto &&
		export MILLRACE_INTEROP_MOSQUITTO=$cache/mosquitto/mosquitto
else
	excused+=("mosquitto: neither on PATH nor is there apt-get")
fi || true

if [ -n "$python" ]; then
	install python "$(required_in python)" install_python &&
		export MILLRACE_INTEROP_PYTHON=$cache/python/bin/python PATH=$cache/python/bin:$PATH
else
	excused+=("python: there is no python3")
fi || true

if have java && have mvn; then
	install milo "$(version_in milo)" install_jars &&
		export MILLRACE_INTEROP_MILO=$cache/milo
else
	excused+=("milo: java and mvn are needed")
fi || true

add_elasticmq
add_dynamodb

echo
# TestCloud… are the cloud half's.
run_tests -tags interop -skip '^TestCloud' ./internal/interop/... ./sample/block/... ./sample/result/... "$@"
account interop
