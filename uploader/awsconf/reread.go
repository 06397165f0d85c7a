package awsconf

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// rereading drops what is cached of our credentials when an answer refuses
// them, so that the next try reads them anew: mending a file is enough.
func rereading(cache *aws.CredentialsCache) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("millraceReread",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
				out, meta, err := next.HandleFinalize(ctx, in)
				if refusesCredentials(err) {
					cache.Invalidate()
				}
				return out, meta, err
			}), middleware.Before)
	}
}

// refusesCredentials reports whether other credentials could be taken.
func refusesCredentials(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	m, known := lookup(api.ErrorCode())
	return known && (m.hint == hintKey || m.hint == hintExpired || m.hint == hintClock)
}
