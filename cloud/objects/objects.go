// Package objects is where the cloud half keeps files: a bucket of S3, or a
// folder in its place.
package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// ErrNone says that there is no object of that key.
var ErrNone = errors.New("no such object")

// Place is a bucket or a folder, and what its keys begin with. Keys have '/'
// between their parts.
type Place interface {
	// Put stores an object, in place of one of the same key. It is whole or not
	// there.
	Put(ctx context.Context, key string, data []byte) error
	// Get opens an object. The error wraps ErrNone where there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// String is the place as Parse takes it.
	String() string
}

// Parse takes s3://bucket/prefix or a folder's path. client makes the client
// for the former.
func Parse(where string, client func() (*s3.Client, error)) (Place, error) {
	rest, remote := strings.CutPrefix(where, "s3://")
	if !remote {
		if where == "" || strings.Contains(where, "://") {
			return nil, fmt.Errorf("%q is neither s3://bucket/prefix nor a folder", where)
		}
		return folder(where), nil
	}
	name, prefix, _ := strings.Cut(rest, "/")
	if name == "" {
		return nil, fmt.Errorf("%q names no bucket: write s3://bucket/prefix", where)
	}
	c, err := client()
	if err != nil {
		return nil, err
	}
	return &bucket{client: c, name: name, prefix: strings.Trim(prefix, "/")}, nil
}

type bucket struct {
	client       *s3.Client
	name, prefix string
}

func (b *bucket) String() string { return strings.TrimSuffix("s3://"+b.name+"/"+b.prefix, "/") }

func (b *bucket) key(key string) string { return strings.TrimPrefix(path.Join(b.prefix, key), "/") }

// Put implements Place. The SDK sends a checksum with it, which S3 verifies.
func (b *bucket) Put(ctx context.Context, key string, data []byte) error {
	full := b.key(key)
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &full, Body: bytes.NewReader(data)})
	return err
}

// Get implements Place.
func (b *bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	full := b.key(key)
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &full})
	var none *types.NoSuchKey
	if errors.As(err, &none) {
		return nil, fmt.Errorf("s3://%s/%s: %w", b.name, full, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	return out.Body, nil
}

type folder string

func (f folder) String() string { return string(f) }

func (f folder) path(key string) string { return filepath.Join(string(f), filepath.FromSlash(key)) }

// Put implements Place. The file has its name only when it is on the disk.
func (f folder) Put(_ context.Context, key string, data []byte) (err error) {
	name := f.path(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil // the file is there; only its name may go with a power cut
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Get implements Place.
func (f folder) Get(_ context.Context, key string) (io.ReadCloser, error) {
	file, err := os.Open(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", f.path(key), ErrNone)
	}
	if err != nil {
		return nil, err
	}
	return file, nil
}
