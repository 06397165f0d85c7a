package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"millrace/feeds"
	"millrace/gateway/config"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// checkMirror tries the feeds and the targets that are not off, and takes and
// writes nothing. Where the mirror is not enabled it does nothing.
func checkMirror(cfg *config.Config, quiet *slog.Logger, each func(what, well string, try func(context.Context) []error)) {
	m := &cfg.Mirror
	if !m.Enabled {
		return
	}
	active := func(uses func(*config.Target) bool) bool {
		return slices.ContainsFunc(m.Targets, func(t config.Target) bool { return t.Mode != config.ModeOff && uses(&t) })
	}
	for i := range m.Feeds {
		f := &m.Feeds[i]
		if active(func(t *config.Target) bool { return slices.Contains(t.Feeds, f.Name) }) {
			each("feed "+f.Name, answers, func(ctx context.Context) []error { return checkFeed(ctx, cfg, f, quiet) })
		}
	}
	servers := map[string]bool{}
	for i := range m.Devices {
		if d := &m.Devices[i]; d.Server {
			servers[d.Name] = true
			each("server "+d.Name, notTried, func(context.Context) []error { return checkServer(cfg, d, quiet) })
		}
	}
	for i := range m.Targets {
		if t := &m.Targets[i]; t.Mode != config.ModeOff && !servers[t.To] { // a server's targets are there once it runs
			each("target "+t.Name, answers, func(ctx context.Context) []error { return checkTarget(ctx, cfg, t, quiet) })
		}
	}
}

func checkFeed(ctx context.Context, cfg *config.Config, f *config.Feed, log *slog.Logger) []error {
	feed, err := f.Config.Open(feeds.Settings{Name: f.Name, Site: cfg.Gateway.Site, Gateway: cfg.Gateway.ID, Log: log, Clock: clock.System{}})
	if err != nil {
		return []error{err}
	}
	return errorsOf(feed.Check(ctx), closing(feed.Close()))
}

// checkServer looks whether the server can show what it is to show. It does not
// listen: the gateway that runs may do so already.
func checkServer(cfg *config.Config, d *config.Device, log *slog.Logger) []error {
	link, err := d.Connection.Open(protocols.Settings{Site: cfg.Gateway.Site, Log: log, Clock: clock.System{}})
	if err != nil {
		return []error{err}
	}
	_, err = show(link, d, func(string) (protocols.Reading, bool) { return protocols.Reading{}, false })
	return errorsOf(err, closing(link.Close()))
}

// checkTarget asks the device whether it takes values of the target, and reads
// what stands there.
func checkTarget(ctx context.Context, cfg *config.Config, t *config.Target, log *slog.Logger) []error {
	link, err := t.Link.Open(protocols.Settings{Site: cfg.Gateway.Site, Log: log, Clock: clock.System{}})
	if err != nil {
		return []error{err}
	}
	target, err := openTarget(link, t, deafHealth{})
	if err != nil {
		return errorsOf(err, closing(link.Close()))
	}
	_, err = target.Prepare(ctx, probe(t))
	if protocols.OutcomeOf(err) == protocols.Unsuited {
		err = fmt.Errorf("a value of %s would not be taken: %w", probe(t), err)
	}
	var unread error
	if protocols.OutcomeOf(err) != protocols.Unsent { // else the device is away, which is said
		_, unread = target.Read(ctx)
	}
	return errorsOf(err, unread, closing(target.Close()), closing(link.Close()))
}

// probe is a value that the target could get.
func probe(t *config.Target) sample.Value {
	switch {
	case t.Fallback != nil:
		return *t.Fallback
	case t.Min != nil:
		return *t.Min
	case t.Max != nil:
		return *t.Max
	}
	switch t.Type {
	case sample.Int64:
		return sample.IntValue(0)
	case sample.Bool:
		return sample.BoolValue(false)
	case sample.String:
		return sample.StringValue("text") // an empty one is special to some
	case sample.Float64, sample.Null:
	}
	return sample.FloatValue(0)
}

func closing(err error) error {
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// errorsOf leaves out what is no error.
func errorsOf(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// deafHealth is for parts that are only tried.
type deafHealth struct{}

func (deafHealth) Beat()      {}
func (deafHealth) Up()        {}
func (deafHealth) Down(error) {}
