package server

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"math"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

const (
	// maxOpenBlocks bounds what is decrypted with our key for one request to
	// open a channel; two to four blocks are usual.
	maxOpenBlocks = 16
	// The lifetime of a token; a client asks for a new one after three quarters.
	minLifetime = 10 * time.Second
	maxLifetime = time.Hour
	// symHeader is type, size, channel, token; seqHeader sequence number and
	// request id: OPC 10000-6, 6.7.2.
	symHeader = 16
	seqHeader = 8
	// Sequence numbers begin again below seqWrap after they passed seqLast:
	// OPC 10000-6, 6.7.2.4.
	seqWrap = 1024
	seqLast = math.MaxUint32 - seqWrap
)

// token is one set of keys of a channel.
type token struct {
	id      uint32
	keys    *uapolicy.EncryptionAlgorithm
	expires time.Time // when nothing under it is taken any more
}

// channel is the server's end of a secure channel, OPC 10000-6, 6.7. Frames are
// read by one goroutine; send may be called by any.
type channel struct {
	srv    *Server
	wire   *wire
	id     uint32
	policy string // URI; empty before the channel is open
	mode   ua.MessageSecurityMode
	peer   *x509.Certificate // the client's; nil without security

	lastSeq uint32
	seen    bool
	// What of a message has come.
	parts      []byte
	partID     uint32
	partCount  int
	partsSince time.Time
	// max is how large a message may be: more in a session.
	max int

	mu      sync.Mutex
	tokens  []*token // the newest last; two at most
	sending *token   // the newest that the client has used
	sendSeq uint32
}

// secured reports whether what is sent is at least signed.
func (c *channel) secured() bool { return c.policy != ua.SecurityPolicyURINone }

// open answers a request to open or renew the channel.
func (c *channel) open(f frame) error {
	now := c.srv.now()
	d := newDecoder(f.raw[frameHeader:])
	channelID := d.u32()
	policy, certificate, thumbprint := d.str(), d.bytes(), d.bytes()
	if d.err != nil || f.last != 'F' {
		return wireErrorf(ua.StatusBadTCPInternalError, "a request to open a channel that does not read")
	}
	renewal := c.policy != ""
	if renewal && (policy != c.policy || channelID != c.id) {
		return wireErrorf(ua.StatusBadSecurityChecksFailed, "a renewal of another channel, or under another policy")
	}
	header := len(f.raw) - len(d.b)
	plain := d.b
	algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURINone, nil, nil)
	if err != nil {
		return err
	}
	peer := c.peer
	if policy != ua.SecurityPolicyURINone {
		if !c.srv.offers(policy) {
			return wireErrorf(ua.StatusBadSecurityPolicyRejected, "security policy %q, which is not offered", policy)
		}
		own := sha1.Sum(c.srv.identity.Leaf.Raw)
		if !bytes.Equal(thumbprint, own[:]) {
			return wireErrorf(ua.StatusBadCertificateInvalid, "a request that is encrypted for another certificate than ours: have the client ask for the endpoints again")
		}
		if renewal && !bytes.HasPrefix(certificate, c.peer.Raw) {
			return wireErrorf(ua.StatusBadSecurityChecksFailed, "a renewal with another certificate")
		}
		// At a renewal too: who was taken out of the list since has to go.
		if peer, err = c.srv.trust(certificate, now); err != nil {
			return err
		}
		public, ok := peer.PublicKey.(*rsa.PublicKey)
		if !ok {
			return wireErrorf(ua.StatusBadCertificateInvalid, "a client's certificate without an RSA key: make it another one")
		}
		if algo, err = uapolicy.Asymmetric(policy, c.srv.identity.Key, public); err != nil {
			return wireErrorf(ua.StatusBadCertificateInvalid, "the key of the client's certificate: %v", err)
		}
		if plain, err = c.openSealed(algo, f.raw, header); err != nil {
			return err
		}
	}
	requestID, body, err := c.sequence(plain)
	if err != nil {
		return err
	}
	req := new(ua.OpenSecureChannelRequest)
	b := newDecoder(body)
	if typ := b.expandedNodeID(); b.err != nil || typ.NodeID.IntID() != id.OpenSecureChannelRequest_Encoding_DefaultBinary || typ.NodeID.Namespace() != 0 {
		return wireErrorf(ua.StatusBadTCPMessageTypeInvalid, "no request to open a channel")
	}
	if err := b.decodeInto(req); err != nil {
		return wireErrorf(ua.StatusBadDecodingError, "a request to open a channel that does not read")
	}
	if err := c.agree(req, policy, renewal); err != nil {
		return err
	}
	c.policy, c.mode, c.peer = policy, req.SecurityMode, peer
	return c.grant(req, algo, requestID, now)
}

// openSealed decrypts and verifies what the client's key has signed: OPC
// 10000-6, 6.7.2.5 and 6.7.4.
func (c *channel) openSealed(algo *uapolicy.EncryptionAlgorithm, raw []byte, header int) ([]byte, error) {
	block := c.srv.identity.Key.Size()
	sealed := raw[header:]
	if len(sealed) == 0 || len(sealed)%block != 0 || len(sealed)/block > maxOpenBlocks {
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a request to open a channel that is not encrypted as it should be")
	}
	plain, err := algo.Decrypt(sealed)
	if err != nil {
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a request to open a channel that does not decrypt")
	}
	return verify(algo, raw[:header], plain, true, block > 256)
}

// verify checks the signature at the end of plain and takes it off, with the
// padding before it where there is some.
func verify(algo *uapolicy.EncryptionAlgorithm, header, plain []byte, padded, extra bool) ([]byte, error) {
	n := len(plain) - algo.RemoteSignatureLength()
	if n < seqHeader {
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a message without its signature")
	}
	signed := append(header[:len(header):len(header)], plain[:n]...)
	if err := algo.VerifySignature(signed, plain[n:]); err != nil {
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a message with a wrong signature")
	}
	plain = plain[:n]
	if !padded {
		return plain, nil
	}
	pad := int(plain[n-1]) + 1
	if extra {
		pad = int(plain[n-1])<<8 + int(plain[n-2]) + 2
	}
	if pad > n-seqHeader {
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a message with wrong padding")
	}
	return plain[:n-pad], nil
}

// sequence takes off the sequence header, whose number has to rise, so that
// nothing is doubled or played again. A number may be left out: gopcua's client
// does, for a request that is given up before it is sent.
func (c *channel) sequence(plain []byte) (requestID uint32, body []byte, err error) {
	if len(plain) < seqHeader {
		return 0, nil, wireErrorf(ua.StatusBadTCPInternalError, "a message without a sequence number")
	}
	n := binary.LittleEndian.Uint32(plain)
	wrapped := c.lastSeq >= seqLast && n < seqWrap
	if c.seen && n <= c.lastSeq && !wrapped {
		return 0, nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "sequence number %d after %d", n, c.lastSeq)
	}
	c.seen, c.lastSeq = true, n
	return binary.LittleEndian.Uint32(plain[4:]), plain[seqHeader:], nil
}

// agree checks what the client asks for.
func (c *channel) agree(req *ua.OpenSecureChannelRequest, policy string, renewal bool) error {
	want := ua.SecurityTokenRequestTypeIssue
	if renewal {
		want = ua.SecurityTokenRequestTypeRenew
	}
	if req.RequestType != want {
		return wireErrorf(ua.StatusBadRequestTypeInvalid, "a channel that is opened twice, or renewed before it is open")
	}
	if renewal && req.SecurityMode != c.mode {
		return wireErrorf(ua.StatusBadSecurityModeRejected, "a renewal in another mode")
	}
	if policy == ua.SecurityPolicyURINone {
		if req.SecurityMode != ua.MessageSecurityModeNone {
			return wireErrorf(ua.StatusBadSecurityModeRejected, "mode %d without a security policy", req.SecurityMode)
		}
		return nil
	}
	if !c.srv.offersMode(req.SecurityMode) {
		return wireErrorf(ua.StatusBadSecurityModeRejected, "a mode that is not offered")
	}
	if len(req.ClientNonce) != nonceBytes || !c.srv.nonces.fresh(req.ClientNonce) {
		return wireErrorf(ua.StatusBadNonceInvalid, "a nonce that is not new, or not %d bytes long", nonceBytes)
	}
	return nil
}

// grant issues a token and answers, under the asymmetric keys.
func (c *channel) grant(req *ua.OpenSecureChannelRequest, algo *uapolicy.EncryptionAlgorithm, requestID uint32, now time.Time) error {
	nonce, err := algo.MakeNonce()
	if err != nil {
		return err
	}
	keys, err := uapolicy.Symmetric(c.policy, nonce, req.ClientNonce)
	if err != nil {
		return wireErrorf(ua.StatusBadSecurityChecksFailed, "keys: %v", err)
	}
	life := maxLifetime
	if req.RequestedLifetime > 0 {
		life = min(max(time.Duration(req.RequestedLifetime)*time.Millisecond, minLifetime), maxLifetime)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &token{id: 1, keys: keys, expires: time.Now().Add(life + life/4)}
	if n := len(c.tokens); n > 0 {
		t.id = c.tokens[n-1].id + 1
	}
	if c.sending == nil {
		c.sending = t
	}
	// The one in use stays beside the new one until the client has used that.
	c.tokens = []*token{c.sending, t}
	resp := &ua.OpenSecureChannelResponse{
		ResponseHeader: &ua.ResponseHeader{Timestamp: now, RequestHandle: req.RequestHeader.RequestHandle},
		SecurityToken:  &ua.ChannelSecurityToken{ChannelID: c.id, TokenID: t.id, CreatedAt: now, RevisedLifetime: uint32(life / time.Millisecond)},
		ServerNonce:    nonce,
	}
	body, err := encodeService(resp)
	if err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32([]byte("OPNF\x00\x00\x00\x00"), c.id)
	head = appendBytes(head, []byte(c.policy))
	if c.secured() {
		thumbprint := sha1.Sum(c.peer.Raw)
		head = appendBytes(appendBytes(head, c.srv.identity.Leaf.Raw), thumbprint[:])
	} else {
		head = appendBytes(appendBytes(head, nil), nil)
	}
	frame, err := c.seal(algo, head, c.nextSeq(), requestID, body, c.secured(), c.secured())
	if err != nil {
		return err
	}
	return c.wire.write(frame)
}

// appendBytes appends a ByteString; nil is null.
func appendBytes(b, s []byte) []byte {
	if s == nil {
		return binary.LittleEndian.AppendUint32(b, math.MaxUint32)
	}
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// nextSeq returns the number of the next chunk. Callers hold c.mu.
func (c *channel) nextSeq() uint32 {
	if c.sendSeq++; c.sendSeq > seqLast {
		c.sendSeq = 1
	}
	return c.sendSeq
}

// seal makes a frame of head, whose size it sets, and body.
func (c *channel) seal(algo *uapolicy.EncryptionAlgorithm, head []byte, seq, requestID uint32, body []byte, sign, encrypt bool) ([]byte, error) {
	header := len(head)
	b := binary.LittleEndian.AppendUint32(head, seq)
	b = binary.LittleEndian.AppendUint32(b, requestID)
	b = append(b, body...)
	size := len(b)
	if sign {
		size += algo.SignatureLength()
	}
	if encrypt {
		extra := 1
		if algo.BlockSize() > 256 {
			extra = 2
		}
		block := algo.PlaintextBlockSize()
		pad := (block - (len(b)-header+extra+algo.SignatureLength())%block) % block
		for range pad + 1 {
			b = append(b, byte(pad))
		}
		if extra == 2 {
			b = append(b, byte(pad>>8))
		}
		size = header + (len(b)-header+algo.SignatureLength())/block*algo.BlockSize()
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(size))
	if sign {
		signature, err := algo.Signature(b)
		if err != nil {
			return nil, err
		}
		b = append(b, signature...)
	}
	if !encrypt {
		return b, nil
	}
	sealed, err := algo.Encrypt(b[header:])
	if err != nil {
		return nil, err
	}
	return append(b[:header], sealed...), nil
}

// read takes a frame of a message, and returns the message once it is whole.
func (c *channel) read(f frame) (requestID uint32, message []byte, whole bool, err error) {
	if c.policy == "" {
		return 0, nil, false, wireErrorf(ua.StatusBadSecureChannelIDInvalid, "a message before the channel is open")
	}
	plain, err := c.unseal(f.raw)
	if err != nil {
		return 0, nil, false, err
	}
	before := c.lastSeq
	requestID, body, err := c.sequence(plain)
	if err != nil {
		return 0, nil, false, err
	}
	// Between messages a number may be left out. Within one, a chunk is missing.
	if c.partCount > 0 && c.lastSeq > before && c.lastSeq != before+1 {
		return 0, nil, false, wireErrorf(ua.StatusBadSecurityChecksFailed, "a message of which a chunk is missing: sequence number %d after %d", c.lastSeq, before)
	}
	if c.partCount > 0 && requestID != c.partID {
		return 0, nil, false, wireErrorf(ua.StatusBadTCPInternalError, "chunks of two messages mixed")
	}
	switch f.last {
	case 'A':
		c.parts, c.partCount = nil, 0
		return 0, nil, false, nil
	case 'C', 'F':
	default:
		return 0, nil, false, wireErrorf(ua.StatusBadTCPMessageTypeInvalid, "a chunk of an unknown kind")
	}
	if c.partCount == 0 {
		c.partsSince = time.Now()
	}
	c.partID = requestID
	c.partCount++
	if c.partCount > maxChunks || len(c.parts)+len(body) > c.max || time.Since(c.partsSince) > messageWithin {
		return 0, nil, false, wireErrorf(ua.StatusBadTCPMessageTooLarge, "a message of more than %d bytes or %d chunks, or longer than %s under way", c.max, maxChunks, messageWithin)
	}
	if f.last == 'C' {
		c.parts = append(c.parts, body...)
		return 0, nil, false, nil
	}
	message = append(c.parts, body...)
	c.parts, c.partCount = nil, 0
	return requestID, message, true, nil
}

// unseal verifies and decrypts a frame by the token that it names.
func (c *channel) unseal(raw []byte) ([]byte, error) {
	if len(raw) < symHeader+seqHeader {
		return nil, wireErrorf(ua.StatusBadTCPInternalError, "a message that ends early")
	}
	if binary.LittleEndian.Uint32(raw[frameHeader:]) != c.id {
		return nil, wireErrorf(ua.StatusBadTCPSecureChannelUnknown, "a message of another channel")
	}
	c.mu.Lock()
	var t *token
	for _, x := range c.tokens {
		if x.id == binary.LittleEndian.Uint32(raw[12:]) {
			t = x
		}
	}
	c.mu.Unlock()
	if t == nil || time.Now().After(t.expires) {
		return nil, wireErrorf(ua.StatusBadSecureChannelTokenUnknown, "a message under a token that is unknown or over")
	}
	plain := raw[symHeader:]
	if c.secured() {
		var err error
		encrypted := c.mode == ua.MessageSecurityModeSignAndEncrypt
		if encrypted {
			if plain, err = t.keys.Decrypt(plain); err != nil {
				return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "a message that does not decrypt")
			}
		}
		if plain, err = verify(t.keys, raw[:symHeader], plain, encrypted, false); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	if t.id > c.sending.id {
		c.sending = t
	}
	c.mu.Unlock()
	return plain, nil
}

// expires is when the channel ends unless it is renewed.
func (c *channel) expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) == 0 {
		return time.Time{}
	}
	return c.tokens[len(c.tokens)-1].expires
}

// fits reports whether the client takes a message of n bytes.
func (c *channel) fits(n int) bool {
	l := c.wire.limits
	return (l.maxSendMessage == 0 || n <= l.maxSendMessage) && (l.maxSendChunks == 0 || n <= l.maxSendChunks*c.bodySize())
}

// bodySize is what of a message goes in one chunk, at least.
func (c *channel) bodySize() int {
	// HMAC-SHA2-256, and padding up to one block of AES.
	return c.wire.limits.send - symHeader - seqHeader - 32 - 2*16
}

// send sends a message, in chunks.
func (c *channel) send(requestID uint32, message []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for first := true; first || len(message) > 0; first = false {
		n := min(len(message), c.bodySize())
		kind := "MSGF"
		if n < len(message) {
			kind = "MSGC"
		}
		head := binary.LittleEndian.AppendUint32([]byte(kind+"\x00\x00\x00\x00"), c.id)
		head = binary.LittleEndian.AppendUint32(head, c.sending.id)
		frame, err := c.seal(c.sending.keys, head, c.nextSeq(), requestID, message[:n], c.secured(), c.mode == ua.MessageSecurityModeSignAndEncrypt)
		if err != nil {
			return err
		}
		if err := c.wire.write(frame); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}
