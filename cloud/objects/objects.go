// Package objects is where the cloud half keeps files: a bucket of S3, or a
// folder in its place.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
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
	// PutFile stores a file of the local disk, as Put does; it may be of any size.
	PutFile(ctx context.Context, key, path string) error
	// List calls fn for each object whose key begins with prefix, in the order of
	// their keys' bytes. An error of fn ends it and is returned.
	List(ctx context.Context, prefix string, fn func(key string, size int64) error) error
	// Delete removes an object. One that is not there is as good.
	Delete(ctx context.Context, key string) error
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

// Read reads a whole object, of up to most bytes; 0 is no bound. The error wraps
// ErrNone where there is no such object.
func Read(ctx context.Context, place Place, key string, most int64) (data []byte, err error) {
	in, err := place.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	from := io.Reader(in)
	if most > 0 {
		from = io.LimitReader(in, most+1)
	}
	if data, err = io.ReadAll(from); err == nil && most > 0 && int64(len(data)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return data, err
}
