package server

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
)

const (
	// nonceBytes is the length of nonces under the policies that are offered:
	// OPC 10000-7, SecureChannelNonceLength.
	nonceBytes = 32
	// keptNonces is how many of the clients' nonces are remembered.
	keptNonces = 1024
)

// newNonce returns 32 random bytes. It needs no error: without randomness the
// runtime ends the program.
func newNonce() []byte {
	b := make([]byte, nonceBytes)
	// It never returns an error: crypto/rand.
	_, _ = rand.Read(b)
	return b
}

// nonceRing remembers the newest nonces of clients, so that none is used twice.
type nonceRing struct {
	mu   sync.Mutex
	seen map[[32]byte]bool
	ring [][32]byte
	next int
}

func newNonceRing() *nonceRing { return &nonceRing{seen: map[[32]byte]bool{}} }

// fresh remembers a nonce, and reports whether it is new.
func (n *nonceRing) fresh(nonce []byte) bool {
	sum := sha256.Sum256(nonce)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen[sum] {
		return false
	}
	n.seen[sum] = true
	if len(n.ring) < keptNonces {
		n.ring = append(n.ring, sum)
		return true
	}
	delete(n.seen, n.ring[n.next])
	n.ring[n.next] = sum
	n.next = (n.next + 1) % keptNonces
	return true
}
