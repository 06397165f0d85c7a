package netsim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Port is a loopback port that stays ours while nothing listens on it: a
// socket that is bound refuses connections until it listens.
type Port struct {
	fd       int
	addr     string
	listener net.Listener
}

// Reserve takes a free port of 127.0.0.1. Another socket of this machine may
// listen on it, if it allows the reuse of addresses as Go does, but gets it only
// by asking for its number.
func Reserve() (*Port, error) {
	// The kernel frees a port that it chose itself when listening ends, but not
	// one that was asked for. So it is asked for, while the first holds it.
	first, number, err := bound(0)
	if err != nil {
		return nil, err
	}
	fd, _, err := bound(number)
	if err := errors.Join(err, syscall.Close(first)); err != nil {
		return nil, err
	}
	return &Port{fd: fd, addr: fmt.Sprintf("127.0.0.1:%d", number)}, nil
}

// bound returns a socket that is bound to a loopback port, a free one for 0.
func bound(number int) (fd, got int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, os.NewSyscallError("socket", err)
	}
	err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	if err == nil {
		err = os.NewSyscallError("bind", syscall.Bind(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}))
	}
	if err == nil {
		var sa syscall.Sockaddr
		sa, err = syscall.Getsockname(fd)
		if in, ok := sa.(*syscall.SockaddrInet4); ok {
			got = in.Port
		}
	}
	if err != nil || got == 0 {
		return 0, 0, errors.Join(fmt.Errorf("bind a loopback port: %w", err), syscall.Close(fd))
	}
	return fd, got, nil
}

// listen begins, or begins again, to accept connections.
func (p *Port) listen() (net.Listener, error) {
	if err := syscall.Listen(p.fd, 128); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	dup, err := syscall.Dup(p.fd)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	f := os.NewFile(uintptr(dup), p.addr)
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	p.listener = l
	return l, nil
}

// refuse ends listening; the port stays bound. Linux takes shutdown on a
// listening socket for that: listen(2) may follow on the same socket.
func (p *Port) refuse() error {
	if p.listener == nil {
		return nil
	}
	err := os.NewSyscallError("shutdown", syscall.Shutdown(p.fd, syscall.SHUT_RDWR))
	err = errors.Join(err, p.listener.Close())
	p.listener = nil
	return err
}

// Addr is the port's address: "127.0.0.1:34567".
func (p *Port) Addr() string { return p.addr }

// Close gives the port back.
func (p *Port) Close() error {
	if p.fd < 0 {
		return nil
	}
	err := errors.Join(p.refuse(), syscall.Close(p.fd))
	p.fd = -1
	return err
}
