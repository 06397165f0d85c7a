package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"millrace/gateway/control"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
)

// MirrorStatus is what the mirror shows of itself and of its way to the cloud.
type MirrorStatus struct {
	mirror.Status
	// LostStatus counts outcomes that did not go up since the start, for want of
	// room. They stand in the audit log.
	LostStatus uint64 `json:"lost_status"`
}

// mirrorStatus is nil where the mirror is not enabled.
func (g *Gateway) mirrorStatus() *MirrorStatus {
	if g.mirror == nil {
		return nil
	}
	return &MirrorStatus{Status: g.mirror.engine.Status(), LostStatus: g.mirror.status.lost.Load()}
}

// line is the mirror's part of the status line, and empty where it is off.
func (s *MirrorStatus) line() string {
	if s == nil {
		return ""
	}
	var armed, dry, stale, unverified int
	for i := range s.Targets {
		t := &s.Targets[i]
		switch t.Mode {
		case guard.Armed:
			armed++
		case guard.DryRun:
			dry++
		case guard.Off:
			continue
		}
		if t.Stale {
			stale++
		}
		if t.Unverified {
			unverified++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, ", mirror: %d armed, %d in dry run", armed, dry)
	for _, c := range []struct {
		n    int
		what string
	}{{stale, "stale"}, {unverified, "unverified"}} {
		if c.n > 0 {
			fmt.Fprintf(&b, ", %d %s", c.n, c.what)
		}
	}
	if s.Audit.Error != "" {
		b.WriteString(", audit log broken: nothing is written")
	}
	return b.String()
}

// errMirrorOff answers who commands a mirror that is not there.
var errMirrorOff = errors.New("the mirror is not enabled: set mirror.enabled: true in the configuration and restart the gateway")

// mirrorHandlers are the paths of the local socket by which an operator sees
// and commands the mirror.
func (g *Gateway) mirrorHandlers() map[string]control.Handler {
	return map[string]control.Handler{
		"/v1/mirror": func(context.Context, url.Values) (any, error) {
			if g.mirror == nil {
				return nil, errMirrorOff
			}
			return g.mirrorStatus(), nil
		},
		"POST /v1/mirror/arm":    g.armTarget,
		"POST /v1/mirror/disarm": g.disarmTargets,
	}
}

func (g *Gateway) armTarget(ctx context.Context, args url.Values) (any, error) {
	peer, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if g.mirror == nil {
		return nil, errMirrorOff
	}
	target, d := args.Get("target"), mirror.Configured
	if text := args.Get("for"); text != "" {
		if d, err = time.ParseDuration(text); err != nil || d <= 0 {
			return nil, fmt.Errorf("for=%q is not a time, such as 8h", text)
		}
	}
	if err := g.knownTarget(target); err != nil {
		return nil, err
	}
	if err := g.mirror.engine.Arm(target, d, peer.String()); err != nil {
		return nil, err
	}
	return g.targetStatus(target)
}

func (g *Gateway) disarmTargets(ctx context.Context, args url.Values) (any, error) {
	peer, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if g.mirror == nil {
		return nil, errMirrorOff
	}
	var names []string
	if args.Get("all") == "true" {
		for _, t := range g.mirror.engine.Status().Targets {
			if t.Mode != guard.Off { // which has nothing to take back
				names = append(names, t.Name)
			}
		}
	} else if name := args.Get("target"); name != "" {
		if err := g.knownTarget(name); err != nil {
			return nil, err
		}
		names = []string{name}
	}
	done := []mirror.TargetStatus{}
	var errs []error
	for _, name := range names { // one that fails must not leave the others armed
		if err := g.mirror.engine.Disarm(name, peer.String()); err != nil {
			errs = append(errs, err)
			continue
		}
		st, err := g.targetStatus(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, st)
	}
	if len(errs) > 0 {
		text := make([]string, len(errs))
		for i, err := range errs {
			text[i] = err.Error()
		}
		return nil, errors.New(strings.Join(text, "; "))
	}
	return done, nil
}

// knownTarget is an error that lists the targets where there is none of that name.
func (g *Gateway) knownTarget(name string) error {
	var known []string
	for i := range g.cfg.Mirror.Targets {
		if g.cfg.Mirror.Targets[i].Name == name {
			return nil
		}
		known = append(known, g.cfg.Mirror.Targets[i].Name)
	}
	return fmt.Errorf("there is no mirror target %q; there are: %s", name, strings.Join(known, ", "))
}

func (g *Gateway) targetStatus(name string) (mirror.TargetStatus, error) {
	for _, t := range g.mirror.engine.Status().Targets {
		if t.Name == name {
			return t, nil
		}
	}
	return mirror.TargetStatus{}, fmt.Errorf("there is no mirror target %q", name)
}
