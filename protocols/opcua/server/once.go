package server

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// sayAgain is how long the same is not logged again.
	sayAgain = time.Hour
	// maxSaid bounds what is remembered of it, and so what strangers can have
	// logged within that time.
	maxSaid = 200
)

// once keeps a client that tries again and again, or many that do, from filling
// the log.
type once struct {
	mu   sync.Mutex
	said map[string]time.Time
	full time.Time // when it was said last that there is no room
}

func newOnce() *once { return &once{said: map[string]time.Time{}} }

// say logs a warning unless it was logged under that key within the hour.
func (o *once) say(log *slog.Logger, key, msg string, args ...any) {
	now := time.Now()
	switch {
	case o.first(key, now):
		log.Warn(msg, args...)
	case o.overflows(key, now):
		log.Warn("OPC UA server: so many different problems with clients that further ones are not logged for now; look for one that tries out what it can", "logged", maxSaid, "within", sayAgain)
	}
}

// overflows reports whether key has no room, once an hour: else a stranger that
// causes many warnings could do the rest unseen.
func (o *once) overflows(key string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, there := o.said[key]; there || !o.full.IsZero() && now.Sub(o.full) < sayAgain {
		return false
	}
	o.full = now
	return true
}

func (o *once) first(key string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t, ok := o.said[key]; ok && now.Sub(t) < sayAgain {
		return false
	}
	if len(o.said) >= maxSaid {
		for k, t := range o.said {
			if now.Sub(t) >= sayAgain {
				delete(o.said, k)
			}
		}
		if len(o.said) >= maxSaid {
			return false
		}
	}
	o.said[key] = now
	return true
}
