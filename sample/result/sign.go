package result

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"millrace/sample"
)

// The errors of Verify, to be told apart by errors.Is.
var (
	ErrUnsigned     = errors.New("the result is not signed")
	ErrUnknownKey   = errors.New("the site does not know the key that the result is signed with")
	ErrBadSignature = errors.New("the signature is not one of this result by this key")
)

// Sign signs r with a key that the site knows under the name key.
func (r *Result) Sign(key string, private ed25519.PrivateKey) {
	r.Signature = Signature{Key: key}
	r.Signature.Sum = ed25519.Sign(private, r.signedBytes())
}

// Verify reports why r is not signed by one of keys, which are by name: an
// error that is ErrUnsigned, ErrUnknownKey or ErrBadSignature.
func (r *Result) Verify(keys map[string]ed25519.PublicKey) error {
	if r.Signature.Key == "" && r.Signature.Sum == nil {
		return ErrUnsigned
	}
	public, ok := keys[r.Signature.Key]
	if !ok || len(public) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %q", ErrUnknownKey, r.Signature.Key)
	}
	if !ed25519.Verify(public, r.signedBytes(), r.Signature.Sum) {
		return fmt.Errorf("%w: %q", ErrBadSignature, r.Signature.Key)
	}
	return nil
}

// signedBytes is what is signed: fourteen fields, each after its length in
// bytes as a big-endian uint32. docs/result.md, "What is signed".
func (r *Result) signedBytes() []byte {
	var b []byte
	field := func(content []byte) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
		b = append(b, content...)
	}
	number := func(n uint64) { field(binary.BigEndian.AppendUint64(nil, n)) }
	field([]byte(Schema))
	field([]byte(r.ID))
	field([]byte(r.Site))
	field([]byte(r.Target))
	number(r.Version)
	field([]byte(r.Value.Kind().String()))
	switch r.Value.Kind() {
	case sample.Float64:
		number(math.Float64bits(r.Value.Float()))
	case sample.Int64:
		number(uint64(r.Value.Int()))
	case sample.Bool:
		field([]byte{byte(r.Value.Bits())})
	case sample.String, sample.Null:
		field([]byte(r.Value.Str()))
	}
	field([]byte(r.Unit))
	field(binary.BigEndian.AppendUint32(nil, uint32(r.Quality)))
	number(uint64(r.ComputedAt.UnixNano()))
	number(uint64(r.ValidFrom.UnixNano()))
	number(uint64(r.ValidUntil.UnixNano()))
	field([]byte(r.Run))
	field([]byte(r.Signature.Key))
	return b
}
