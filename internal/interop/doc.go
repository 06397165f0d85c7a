// Package interop holds the tests that run millrace against servers that no
// one here wrote: Mosquitto, pymodbus, asyncua, ElasticMQ and DynamoDB Local.
// They are built with the tag interop and run by scripts/interop.sh, which
// installs the servers and says by the environment where they are. Those of the
// cloud half are named TestCloud…, in files cloud_*_test.go, and are run by
// scripts/interop-cloud.sh on more parts: fauxqs, moto, dynalite, PySpark,
// PostgreSQL, cfn-lint.
package interop
