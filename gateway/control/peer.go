package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// Peer is who called, as the kernel says: the socket's peer credentials. unix(7),
// SO_PEERCRED.
type Peer struct {
	PID      int
	UID, GID uint32
}

// name is the user's, or "" where this machine does not know it.
func (p Peer) name() string {
	u, err := user.LookupId(strconv.FormatUint(uint64(p.UID), 10))
	if err != nil {
		return ""
	}
	return u.Username
}

// String names the caller for records: "ops (uid 1000, pid 4711)".
func (p Peer) String() string {
	name := p.name()
	if name == "" {
		name = "somebody"
	}
	return fmt.Sprintf("%s (uid %d, pid %d)", name, p.UID, p.PID)
}

// LogValue implements slog.LogValuer.
func (p Peer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("user", p.name()), slog.Uint64("uid", uint64(p.UID)), slog.Uint64("gid", uint64(p.GID)), slog.Int("pid", p.PID))
}

type peerKey struct{}

// withPeer notes with each connection who is at its other end.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid})
}

// PeerOf returns who made the call that a handler answers, and false where the
// kernel did not say.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
