package awsconf

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Signer signs each request with a key of its own. The SDK's keeps derived keys
// by the access key's id alone, so that a secret which was corrected under the
// same id would be refused until the next day.
type Signer struct{}

// SignHTTP signs r in place; see v4.Signer.
func (Signer) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time,
	opts ...func(*v4.SignerOptions),
) error {
	return v4.NewSigner().SignHTTP(ctx, c, r, payloadHash, service, region, at, opts...)
}
