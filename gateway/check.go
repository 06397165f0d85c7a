package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"millrace/gateway/config"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/uploader"
)

// What is said of a part without fault.
const (
	answers = "answers"
	// notTried is of a server of the gateway's own.
	notTried = "can be built; whether its address is free shows when the gateway starts"
)

// Check tries every device and endpoint of a configuration, each within
// timeout, without emitting, writing or delivering anything. It tells of each
// what is well or what is wrong, and returns how many faults there were.
func Check(ctx context.Context, cfg *config.Config, timeout time.Duration, tell func(what, well string, errs []error)) (faults int) {
	// What a part would log is told as an error here.
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	each := func(what, well string, try func(context.Context) []error) {
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		errs := try(limited)
		faults += len(errs)
		tell(what, well, errs)
	}
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		each("source "+src.Name, answers, func(ctx context.Context) []error { return checkSource(ctx, cfg, src, quiet) })
	}
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		each("sink "+s.Name, answers, func(ctx context.Context) []error { return checkSink(ctx, cfg, s, quiet) })
	}
	checkMirror(cfg, quiet, each)
	return faults
}

func checkSource(ctx context.Context, cfg *config.Config, src *config.Source, log *slog.Logger) []error {
	link, err := src.Connection.Open(protocols.Settings{Site: cfg.Gateway.Site, Log: log, Clock: clock.System{}})
	if err != nil {
		return []error{err}
	}
	var errs []error
	if checker, ok := link.(protocols.Checker); ok {
		errs = checker.Check(ctx, src.Spec)
	}
	if err := link.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close: %w", err))
	}
	return errs
}

func checkSink(ctx context.Context, cfg *config.Config, s *config.Sink, log *slog.Logger) []error {
	sink, err := s.Config.Open(uploader.Settings{
		Name: s.Name, Site: cfg.Gateway.Site, Gateway: cfg.Gateway.ID,
		StateDir: filepath.Dir(cfg.Spool.Dir), Log: log, Clock: clock.System{},
	})
	if err != nil {
		return []error{err}
	}
	var errs []error
	if err := sink.Check(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := sink.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close: %w", err))
	}
	return errs
}
