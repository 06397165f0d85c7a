package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"millrace/gateway/batch"
	"millrace/gateway/control"
	"millrace/spool"
)

// SpoolWriter is a spool whose dead letters and sinks an operator deals with:
// that of a running daemon, or one opened for maintenance.
type SpoolWriter interface {
	Dead() ([]spool.DeadLetter, error)
	RetryDead(id uint64) error
	DropDead(id uint64) error
	Forget(sink string) error
	Stats() spool.Stats
}

// DeadLetter is a dead letter as `millrace spool dead` shows it.
type DeadLetter struct {
	spool.DeadLetter
	StreamName string `json:"stream_name"`
}

// ListDead lists dead letters, oldest first.
func ListDead(s interface {
	Dead() ([]spool.DeadLetter, error)
}) ([]DeadLetter, error) {
	letters, err := s.Dead()
	if err != nil {
		return nil, err
	}
	out := make([]DeadLetter, 0, len(letters))
	for _, l := range letters {
		out = append(out, DeadLetter{l, batch.StreamName(l.Stream)})
	}
	return out, nil
}

// DeadAction is what is done with a dead letter.
type DeadAction string

// The actions.
const (
	DeadRetry DeadAction = "retry" // send it to its sink again
	DeadDrop  DeadAction = "drop"  // remove it and declare the loss
)

// ActOnDead does what action says with the dead letter of that id, or with all
// where id is 0, and returns those that it was done with, also beside an error.
func ActOnDead(s SpoolWriter, action DeadAction, id uint64) (done []DeadLetter, err error) {
	letters, err := ListDead(s)
	if err != nil {
		return nil, err
	}
	found := false
	for _, l := range letters {
		if id != 0 && l.ID != id {
			continue
		}
		found = true
		if action == DeadRetry {
			err = s.RetryDead(l.ID)
		} else {
			err = s.DropDead(l.ID)
		}
		if err != nil {
			if n := len(done); n > 0 {
				err = fmt.Errorf("%w (%d others are done)", err, n)
			}
			return done, err
		}
		done = append(done, l)
	}
	if id != 0 && !found {
		return nil, &spool.NotFoundError{What: "dead letter", Number: id}
	}
	return done, nil
}

// Forgotten says what was pending for a sink that is forgotten.
type Forgotten struct {
	Sink    string `json:"sink"`
	Blocks  int    `json:"blocks"`
	Samples int64  `json:"samples"`
}

// Forget drops a sink that no configuration names, and what was pending for it.
func Forget(s SpoolWriter, sink string) (Forgotten, error) {
	was := s.Stats().Sinks[sink]
	if err := s.Forget(sink); err != nil {
		return Forgotten{}, err
	}
	return Forgotten{Sink: sink, Blocks: was.PendingBlocks, Samples: was.PendingSamples}, nil
}

// spoolHandlers are the paths of the local socket by which an operator deals
// with dead letters and with sinks that are gone.
func (g *Gateway) spoolHandlers() map[string]control.Handler {
	return map[string]control.Handler{
		"/v1/spool/dead": func(context.Context, url.Values) (any, error) { return ListDead(g.spool) },
		"/v1/spool/dead/show": func(_ context.Context, args url.Values) (any, error) {
			id, err := strconv.ParseUint(args.Get("id"), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("id=%q is not a dead letter's number", args.Get("id"))
			}
			b, err := g.spool.PeekDead(id)
			return b.Data, err
		},
		"POST /v1/spool/dead/retry": func(ctx context.Context, args url.Values) (any, error) { return g.actOnDead(ctx, DeadRetry, args) },
		"POST /v1/spool/dead/drop":  func(ctx context.Context, args url.Values) (any, error) { return g.actOnDead(ctx, DeadDrop, args) },
		"POST /v1/spool/forget": func(ctx context.Context, args url.Values) (any, error) {
			peer, err := caller(ctx)
			if err != nil {
				return nil, err
			}
			f, err := Forget(g.spool, args.Get("sink"))
			if err == nil {
				g.log.Warn("operator: a sink is forgotten", "action", "forget", "sink", f.Sink, "blocks", f.Blocks, "samples", f.Samples, "by", peer)
			}
			return f, err
		},
	}
}

func (g *Gateway) actOnDead(ctx context.Context, action DeadAction, args url.Values) (any, error) {
	peer, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	id := uint64(0)
	if args.Get("all") != "true" {
		if id, err = strconv.ParseUint(args.Get("id"), 10, 64); err != nil || id == 0 {
			return nil, fmt.Errorf("id=%q is not a dead letter's number", args.Get("id"))
		}
	}
	done, err := ActOnDead(g.spool, action, id)
	for _, l := range done {
		g.log.Warn("operator: "+action.done(), "action", string(action), "id", l.ID, "sink", l.Sink, "stream", l.StreamName, "seq", l.Seq, "samples", l.Count, "by", peer)
	}
	return done, err
}

func (a DeadAction) done() string {
	if a == DeadRetry {
		return "a dead letter is sent again"
	}
	return "a dead letter is dropped, and its loss declared"
}

// caller says who asks for a change, which the log keeps.
func caller(ctx context.Context) (control.Peer, error) {
	p, ok := control.PeerOf(ctx)
	if !ok {
		return p, errors.New("the kernel does not say who is calling, so nothing is changed")
	}
	return p, nil
}
