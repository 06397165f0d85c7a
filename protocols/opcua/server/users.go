package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	maxUserName = 256
	// maxPassword bounds one that a client sends, in bytes.
	maxPassword = 1024
	// failureDelay holds back the answer to a wrong password.
	failureDelay = time.Second
	// After freeFailures for one user from one address, or addressFailures from
	// one address, nobody of that kind gets in for lockFor, which doubles with
	// each failure up to maxLock.
	freeFailures    = 5
	addressFailures = 20
	lockFor         = 30 * time.Second
	maxLock         = 15 * time.Minute
	// maxTracked bounds what is remembered of failures.
	maxTracked = 1000
)

// users checks names and passwords.
type users struct {
	list   []User
	log    *slog.Logger
	warned *once
	// wait is the delay after a failure; a test sets it shorter.
	wait time.Duration

	mu       sync.Mutex
	failures map[attempt]*failure
}

// attempt is whose failures are counted: a user at an address, or with an empty
// name all at that address.
type attempt struct{ user, address string }

type failure struct {
	count int
	until time.Time // locked until then
	last  time.Time
}

func newUsers(list []User, log *slog.Logger, warned *once) *users {
	return &users{list: list, log: log, warned: warned, wait: failureDelay, failures: map[attempt]*failure{}}
}

// login checks a password. It takes as long for a name that is unknown, and
// refuses the right one as well while the user is locked out.
func (u *users) login(ctx context.Context, name, password, address string, now time.Time) error {
	if u.check(name, password, address, now) {
		return nil
	}
	t := time.NewTimer(u.wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return ua.StatusBadUserAccessDenied
}

// check lets in or counts a failure, one login after the other, so that many at
// once are no more tries than one after the other.
func (u *users) check(name, password, address string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	right := u.matches(name, password)
	if u.locked(name, address, now) {
		return false
	}
	if right {
		delete(u.failures, attempt{name, address})
		delete(u.failures, attempt{"", address})
		return true
	}
	u.count(attempt{name, address}, freeFailures, now)
	u.count(attempt{"", address}, addressFailures, now)
	u.warned.say(u.log, "login "+address, "OPC UA server refuses a login: wrong user or password", "user", u.known(name), "address", address)
	return false
}

// known is how a name is logged: what is no user's name may be a password that
// was typed in its place.
func (u *users) known(name string) string {
	if slices.ContainsFunc(u.list, func(user User) bool { return user.Name == name }) {
		return name
	}
	return "(unknown)"
}

// matches compares with every user, in the same time whoever it is.
func (u *users) matches(name, password string) bool {
	given, givenName := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(name))
	found := 0
	for _, user := range u.list {
		want, err := user.Password.Read()
		if err != nil || want == "" {
			u.warned.say(u.log, "secret "+user.Name, "OPC UA server: the password of a user cannot be read or is empty, so he is refused", "user", user.Name, "secret", user.Password.String(), "error", err)
			continue
		}
		sum, sumName := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(user.Name))
		found |= subtle.ConstantTimeCompare(sum[:], given[:]) & subtle.ConstantTimeCompare(sumName[:], givenName[:])
	}
	return found == 1
}

// locked reports a lock-out. Callers hold u.mu.
func (u *users) locked(name, address string, now time.Time) bool {
	for _, a := range []attempt{{name, address}, {"", address}} {
		if f := u.failures[a]; f != nil && now.Before(f.until) {
			return true
		}
	}
	return false
}

// count counts a failure, and locks out after too many. Callers hold u.mu.
func (u *users) count(a attempt, free int, now time.Time) {
	f := u.failures[a]
	if f == nil {
		u.makeRoom(now)
		f = new(failure)
		u.failures[a] = f
	}
	if now.Sub(f.last) > maxLock {
		f.count = 0
	}
	f.last = now
	if f.count++; f.count < free {
		return
	}
	lock := min(lockFor<<min(f.count-free, 10), maxLock)
	f.until = now.Add(lock)
	if f.count == free {
		who := "every user"
		if a.user != "" {
			who = u.known(a.user)
		}
		u.log.Warn("OPC UA server locks out after wrong passwords", "user", who, "address", a.address, "failures", f.count, "for", lock.String())
	}
}

// makeRoom forgets the oldest failure where there are too many.
func (u *users) makeRoom(now time.Time) {
	if len(u.failures) < maxTracked {
		return
	}
	var oldest attempt
	at := now.Add(time.Hour)
	for a, f := range u.failures {
		if f.last.Before(at) {
			oldest, at = a, f.last
		}
	}
	delete(u.failures, oldest)
}
