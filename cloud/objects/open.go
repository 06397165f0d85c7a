package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Object is an object that is read from any place of it, by several goroutines
// if need be.
type Object struct {
	io.ReaderAt
	Size  int64
	close func() error
}

// Close ends the reading.
func (o *Object) Close() error { return o.close() }

// Open opens an object for reading from any place. From S3 only what is read is
// brought, by pieces of 1 MiB. The error wraps ErrNone where there is none. ctx is
// for all reading.
func Open(ctx context.Context, p Place, key string) (*Object, error) {
	switch p := p.(type) {
	case folder:
		return p.open(key)
	case *bucket:
		return p.open(ctx, key)
	}
	return openCopy(ctx, p, key)
}

// openCopy opens an object of any other place by a copy of it on the local disk.
func openCopy(ctx context.Context, p Place, key string) (o *Object, err error) {
	body, err := p.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	f, err := os.CreateTemp("", "millrace-object-*")
	if err != nil {
		return nil, err
	}
	remove := func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	size, err := io.Copy(f, body)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s in %s: %w", key, p, err), remove())
	}
	return &Object{ReaderAt: f, Size: size, close: remove}, nil
}

func (f folder) open(key string) (*Object, error) {
	file, err := os.Open(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", f.path(key), ErrNone)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Object{ReaderAt: file, Size: info.Size(), close: file.Close}, nil
}

func (b *bucket) open(ctx context.Context, key string) (*Object, error) {
	full := b.key(key)
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &full})
	var none *types.NotFound
	if errors.As(err, &none) {
		return nil, fmt.Errorf("s3://%s/%s: %w", b.name, full, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	if out.ContentLength == nil {
		return nil, fmt.Errorf("s3://%s/%s: its size is not told", b.name, full)
	}
	r := &ranges{ctx: ctx, b: b, key: full, size: *out.ContentLength}
	return &Object{ReaderAt: r, Size: r.size, close: func() error { return nil }}, nil
}

const (
	pieceBytes = 1 << 20
	pieces     = 16 // that are kept
)

// ranges reads an object of S3 piece by piece. The newest pieces are kept, since a
// Parquet file is read by many small steps.
type ranges struct {
	ctx  context.Context
	b    *bucket
	key  string
	size int64

	mu   sync.Mutex
	have map[int64][]byte
	age  []int64 // pieces, the oldest first
}

// ReadAt implements io.ReaderAt.
func (r *ranges) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) {
		if at >= r.size {
			return n, io.EOF
		}
		piece, err := r.piece(at / pieceBytes)
		if err != nil {
			return n, err
		}
		k := copy(p[n:], piece[at%pieceBytes:])
		n, at = n+k, at+int64(k)
	}
	return n, nil
}

func (r *ranges) piece(i int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, there := r.have[i]; there {
		return p, nil
	}
	from, to := i*pieceBytes, min((i+1)*pieceBytes, r.size)
	// Both ends are in the range. RFC 9110, 14.1.2.
	span := fmt.Sprintf("bytes=%d-%d", from, to-1)
	out, err := r.b.client.GetObject(r.ctx, &s3.GetObjectInput{Bucket: &r.b.name, Key: &r.key, Range: &span})
	if err != nil {
		return nil, err
	}
	p := make([]byte, to-from)
	_, err = io.ReadFull(out.Body, p)
	if err = errors.Join(err, out.Body.Close()); err != nil {
		return nil, fmt.Errorf("s3://%s/%s: %w", r.b.name, r.key, err)
	}
	if r.have == nil {
		r.have = map[int64][]byte{}
	}
	if len(r.age) == pieces {
		delete(r.have, r.age[0])
		r.age = r.age[1:]
	}
	r.have[i], r.age = p, append(r.age, i)
	return p, nil
}
