//go:build !duckdb

package duckdb

import (
	"context"

	"millrace/cloud/analysis"
)

// Engine is not there.
type Engine struct{}

// New fails with ErrAbsent.
func New(context.Context, Options) (*Engine, error) { return nil, ErrAbsent }

// Compute implements analysis.Local.
func (*Engine) Compute(context.Context, analysis.Query) (int64, error) { return 0, ErrAbsent }

// Close does nothing.
func (*Engine) Close() error { return nil }
