package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

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

// S3 takes 5 GiB at once, and a part of an upload has at least 5 MiB and one of
// 10,000 numbers. Amazon S3 User Guide, "Multipart upload limits".
const (
	partBytes = 16 << 20
	maxParts  = 10_000
)

// PutFile implements Place. What is larger than a part goes up in parts, and is
// there when S3 has put them together.
func (b *bucket) PutFile(ctx context.Context, key, name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	full := b.key(key)
	if info.Size() <= partBytes {
		_, err := b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &full, Body: f, ContentLength: aws.Int64(info.Size())})
		return err
	}
	up, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: &full})
	if err != nil {
		return err
	}
	done, err := b.parts(ctx, f, info.Size(), full, aws.ToString(up.UploadId))
	if err == nil {
		_, err = b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &b.name, Key: &full, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done}})
	}
	if err != nil {
		// Parts that lie about are paid for until the bucket's lifecycle ends them.
		_, abort := b.client.AbortMultipartUpload(context.WithoutCancel(ctx), &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &full, UploadId: up.UploadId})
		return errors.Join(err, abort)
	}
	return nil
}

func (b *bucket) parts(ctx context.Context, f io.ReaderAt, size int64, full, upload string) ([]types.CompletedPart, error) {
	each := max(partBytes, (size+maxParts-1)/maxParts)
	var done []types.CompletedPart
	for at := int64(0); at < size; at += each {
		number := aws.Int32(int32(len(done) + 1))
		n := min(each, size-at)
		out, err := b.client.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b.name, Key: &full, UploadId: &upload, PartNumber: number,
			Body: io.NewSectionReader(f, at, n), ContentLength: &n})
		if err != nil {
			return nil, err
		}
		done = append(done, types.CompletedPart{ETag: out.ETag, PartNumber: number,
			ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C, ChecksumCRC64NVME: out.ChecksumCRC64NVME})
	}
	return done, nil
}

// List implements Place.
func (b *bucket) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	full := prefix
	if b.prefix != "" {
		full = b.prefix + "/" + prefix
	}
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &full})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			key := aws.ToString(o.Key)
			if b.prefix != "" {
				key = strings.TrimPrefix(key, b.prefix+"/")
			}
			if err := fn(key, aws.ToInt64(o.Size)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete implements Place.
func (b *bucket) Delete(ctx context.Context, key string) error {
	full := b.key(key)
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &full})
	return err
}
