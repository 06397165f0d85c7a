#!/usr/bin/env bash
# Installs the real parts of the cloud half from their registries into
# .cache/interop and runs its tests on them, and those of DuckDB:
#
#   ElasticMQ               Maven Central; SQS
#   fauxqs                  npm; SQS
#   moto                    PyPI; SQS, DynamoDB, S3, the Redshift Data API
#   DynamoDB Local          Maven Central; its licence forbids passing it on, so it stays in .cache
#   dynalite                npm; DynamoDB
#   PySpark                 PyPI; runs the analysis as EMR Serverless would
#   PostgreSQL              Debian, by apt-get download, or the one on this machine; runs Redshift's SQL
#   JDBC for PostgreSQL     Maven Central; reads the warehouse's views
#   sqlfluff                PyPI; its grammar of Redshift reads the warehouse's statements
#   cfn-lint                PyPI; checks cloud/deploy/template.yaml
#   DuckDB                  the Go module proxy, linked by cgo: a C compiler is needed
#
# A test whose part cannot be installed is skipped and named at the end. With
# CI set that is a failure, unless this machine cannot have that part at all.
# Arguments are handed to go test: scripts/interop-cloud.sh -run TestCloudTemplate
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/interop-common.sh
. scripts/interop-common.sh

install_aws() { install_venv "$1" && "$1/bin/moto_server" --help && "$1/bin/cfn-lint" --version && "$1/bin/sqlfluff" --version; }
install_spark() { install_venv "$1" && "$1/bin/python" -c 'import pyspark'; }

install_node() {
	cp "$servers/node.package.json" "$1/package.json" &&
		npm install --prefix "$1" --no-save --no-audit --no-fund --loglevel=error &&
		[ -e "$1/node_modules/fauxqs/dist/app.js" ] && node "$1/node_modules/dynalite/cli.js" --help
}

install_postgres() {
	unpack_debian postgresql "$1" && find_postgres "$1/usr/lib/postgresql"
}

# find_postgres FOLDER prints the folder of the newest version's programs.
find_postgres() {
	local bin
	bin=$(find "$1" -mindepth 3 -maxdepth 3 -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
	[ -n "$bin" ] && dirname "$bin"
}

add_elasticmq
add_dynamodb
if ! have java || ! have mvn; then
	excused+=("jdbc: java and mvn are needed")
elif install jdbc "$(version_in jdbc)" install_jars; then
	export MILLRACE_INTEROP_JDBC=$cache/jdbc
fi

if have npm && have node && [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -ge 20 ]; then
	if install node "$(sed -n 's/^ *"\(dynalite\|fauxqs\)": "\(.*\)",\{0,1\}$/\1 \2/p' "$servers/node.package.json" | paste -sd ' ')" install_node; then
		export MILLRACE_INTEROP_FAUXQS=$cache/node/node_modules MILLRACE_INTEROP_DYNALITE=$cache/node/node_modules
	fi
else
	excused+=("fauxqs: npm and node 20 or newer are needed" "dynalite: npm and node 20 or newer are needed")
fi

if [ -n "$python" ]; then
	if install aws "$(required_in aws)" install_aws; then
		export MILLRACE_INTEROP_MOTO=$cache/aws/bin/moto_server MILLRACE_INTEROP_CFNLINT=$cache/aws/bin/cfn-lint MILLRACE_INTEROP_SQLFLUFF=$cache/aws/bin/sqlfluff
	fi
	if ! have java; then
		excused+=("spark: java is needed")
	elif install spark "$(required_in spark)" install_spark; then
		export MILLRACE_INTEROP_SPARK=$cache/spark/bin/python
		# Spark 3.5 runs on 17 and not on what is newer.
		for home in /usr/lib/jvm/java-17-openjdk-*; do
			[ ! -x "$home/bin/java" ] || export JAVA_HOME=$home
		done
	fi
else
	excused+=("moto: there is no python3" "cfnlint: there is no python3" "sqlfluff: there is no python3" "spark: there is no python3")
fi

if postgres=$(find_postgres /usr/lib/postgresql); then
	export MILLRACE_INTEROP_POSTGRES=$postgres
elif have apt-get && have dpkg; then
	stamp=$(apt-cache policy postgresql | sed -n 's/ *Candidate: //p')
	install postgres "debian-${stamp:-?}" install_postgres &&
		export MILLRACE_INTEROP_POSTGRES=$(find_postgres "$cache/postgres/usr/lib/postgresql")
else
	excused+=("postgres: neither in /usr/lib/postgresql nor is there apt-get")
fi || true

tags=interop
if have cc || have gcc; then
	tags="interop duckdb"
	export CGO_ENABLED=1
else
	excused+=("duckdb: there is no C compiler")
	echo "interop: without a C compiler DuckDB is left out"
fi

echo
run_tests -tags "$tags" -run '^TestCloud' ./internal/interop/ ./cloud/deploy/ "$@"
# The analysis' own tests, which make test leaves out for want of DuckDB.
[ "$tags" = interop ] || [ $# -gt 0 ] || run_tests -tags duckdb ./cloud/analysis/...
[ "$tags" = interop ] || [ $# -gt 0 ] || run_tests -tags duckdb -run TestPipelineToTheSite ./cmd/millrace-cloud
account interop-cloud
