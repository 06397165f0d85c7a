// Package duckdb runs the texts of the analysis on an embedded DuckDB, which is
// C++: it is there in binaries that are built with the tag duckdb (`make
// cloud`), and in others New says so.
//
// Nothing is read from the network: DuckDB has no httpfs here, so files of S3
// are brought to a work directory before it reads them (analysis.Machine).
package duckdb

import "errors"

// Options are the bounds of an engine.
type Options struct {
	// Memory is what DuckDB may take, in bytes. Beyond it, it goes to files in Dir.
	Memory int64
	// Threads is how many of its threads compute at once; at least 1.
	Threads int
	// Dir takes what does not fit into memory. It is made where it is missing.
	Dir string
}

// ErrAbsent says that the binary was built without DuckDB.
var ErrAbsent = errors.New("this binary has no DuckDB: build one that has it with `make cloud` (needs a C compiler), or give --engine spark")
