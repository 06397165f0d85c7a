//go:build !duckdb

package duckdb

import (
	"context"
	"errors"

	"millrace/cloud/analysis"
)

// ErrAbsent says that the binary was built without DuckDB.
var ErrAbsent = errors.New("this binary has no DuckDB: build one that has it with `make cloud` (needs a C compiler), or give --engine spark")

// Engine is not there.
type Engine struct{}

// New fails with ErrAbsent.
func New(context.Context, Options) (*Engine, error) { return nil, ErrAbsent }

// Compute implements analysis.Local.
func (*Engine) Compute(context.Context, analysis.Query) (int64, error) { return 0, ErrAbsent }

// Close does nothing.
func (*Engine) Close() error { return nil }
