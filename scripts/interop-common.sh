# What interop.sh and interop-cloud.sh share: installing servers into
# .cache/interop, running go test on them, and the account at the end. It is
# sourced, from within the repository's root, under set -euo pipefail.
# shellcheck shell=bash disable=SC2034

root=$PWD
cache=$root/.cache/interop
servers=$root/internal/interop/servers
mkdir -p "$cache"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

failed=()  # should be here, and could not be installed
excused=() # cannot be had on this machine, each with the reason: "name: why"

have() { command -v "$1" >/dev/null; }

# Debian's own interpreter has the venv module's parts; one from elsewhere may not.
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3 || true)

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

# unpack_debian PACKAGE FOLDER puts a package of Debian's, and what is missing here
# of those that it needs, into a folder. Nothing is installed.
unpack_debian() {
	local packages
	packages=$(apt-get -s install --no-install-recommends "$1" | awk '/^Inst/ {print $2}') || packages=
	if [ -z "$packages" ] && [ "$(id -u)" = 0 ]; then
		apt-get update &&
			packages=$(apt-get -s install --no-install-recommends "$1" | awk '/^Inst/ {print $2}')
	fi
	[ -n "$packages" ] || return 1
	(
		# shellcheck disable=SC2086
		cd "$2" && apt-get download $packages &&
			for deb in *.deb; do dpkg -x "$deb" . || exit 1; done &&
			rm -- *.deb
	)
}

# install_venv and install_jars take what the folder's own name says:
# FOLDER.requirements.txt and FOLDER.pom.xml.
install_venv() {
	"$python" -m venv "$1" &&
		"$1/bin/pip" install --quiet --disable-pip-version-check wheel &&
		"$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$servers/$(basename "$1").requirements.txt"
}

install_jars() {
	mvn --batch-mode --quiet --file "$servers/$(basename "$1").pom.xml" \
		dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1"
}

version_in() { sed -n "s|.*<version>\([0-9.]*\.[0-9.]*\)</version>.*|\1|p" "$servers/$1.pom.xml"; }
required_in() { grep -v '^#' "$servers/$1.requirements.txt" | paste -sd ' '; }

# What both scripts run on.
add_elasticmq() {
	if ! have java || ! have mvn; then
		excused+=("elasticmq: java and mvn are needed")
	elif install elasticmq "$(version_in elasticmq)" install_jars; then
		export MILLRACE_INTEROP_ELASTICMQ=$cache/elasticmq
	fi
}

# Its licence forbids passing it on, so it stays in .cache.
add_dynamodb() {
	if ! have java || ! have mvn; then
		excused+=("dynamodb: java and mvn are needed")
	elif [ "$(uname -m)" != x86_64 ]; then
		excused+=("dynamodb: its native library is for x86_64 only")
	elif install dynamodb "$(version_in dynamodb)" install_jars; then
		export MILLRACE_INTEROP_DYNAMODB=$cache/dynamodb
	fi
}

# run_tests ARGUMENT… is go test with its output kept for the account.
code=0
run_tests() {
	go test -count 1 -timeout 20m -v "$@" 2>&1 | tee -a "$logs/test" |
		grep -vE '^(=== |[[:space:]]*--- PASS|PASS$)' || code=$((code + PIPESTATUS[0]))
}

# account TITLE says what was run and what was not, and ends the script: with 1
# where a test failed, and with CI set also where one should have run.
account() {
	local title=$1 passed skips absent known skipped unexcused why name
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
		echo "$title: FAILED, $passed passed, $skipped skipped"
		exit 1
	fi
	if [ -n "${CI:-}" ] && { [ ${#failed[@]} -gt 0 ] || [ -n "$unexcused" ]; }; then
		echo "$title: FAILED, $passed passed, $skipped skipped, of which $(grep -c . <<<"$unexcused" || true) should run"
		exit 1
	fi
	echo "$title: $passed passed, $skipped skipped"
}
