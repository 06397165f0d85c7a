// Package interop holds the tests that run millrace against servers that no
// one here wrote: Mosquitto, pymodbus, asyncua, ElasticMQ and DynamoDB Local.
// They are built with the tag interop and run by scripts/interop.sh, which
// installs the servers and says by the environment where they are.
package interop
