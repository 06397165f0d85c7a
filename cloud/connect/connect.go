// Package connect makes the AWS clients of the cloud half, and says what their
// errors mean.
package connect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/redshiftdata"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go/logging"

	"millrace/cloud/objects"
	"millrace/internal/steady"
)

// Settings say where AWS is. The zero Settings take everything from the
// environment, ~/.aws, or the instance's or container's role.
type Settings struct {
	Region string // as in eu-central-1
	// Endpoint replaces DynamoDB's own address, and S3Endpoint that of S3, for a
	// local stand-in or a VPC endpoint: http://127.0.0.1:8000. A queue's address
	// is in its URL.
	Endpoint, S3Endpoint string
	// Connections is how many requests of a service may be under way at once
	// without dialling anew; 2 where it is 0.
	Connections int
	// OneTry leaves trying again to the caller. Else the SDK tries three times.
	OneTry bool
}

// Load reads the settings of a client. It reads files and the environment, and
// does not touch the network.
//
// The error is a *SettingError where it is of s.
func Load(ctx context.Context, s Settings) (aws.Config, error) {
	if err := s.check(); err != nil {
		return aws.Config{}, err
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.MaxIdleConnsPerHost = max(s.Connections, 2)
		tr.IdleConnTimeout = 90 * time.Second
	})
	// The SDK's logger writes to standard error, outside our log's form and rate;
	// what matters comes back as an error.
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(client), config.WithLogger(logging.Nop{})}
	if s.Region != "" {
		opts = append(opts, config.WithRegion(s.Region))
	}
	if s.OneTry {
		opts = append(opts, config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return cfg, fmt.Errorf("load AWS settings: %w; look at ~/.aws/config and the AWS_ variables", err)
	}
	if cfg.Region == "" {
		return cfg, errors.New("no AWS region is configured: give --region, or AWS_REGION in the environment")
	}
	if !isRegion(cfg.Region) {
		return cfg, fmt.Errorf("AWS region %q of the environment or ~/.aws/config is none: write it as in eu-central-1", cfg.Region)
	}
	cfg.HTTPClient = steady.New(cfg.HTTPClient)
	return cfg, nil
}

// DynamoDB makes a client of DynamoDB.
func DynamoDB(cfg aws.Config, s Settings) *dynamodb.Client {
	return dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = &s.Endpoint
		}
	})
}

// S3 makes a client of S3. A stand-in has its buckets in the path, since it has
// no names of its own.
func S3(cfg aws.Config, s Settings) *s3.Client {
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		if s.S3Endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &s.S3Endpoint, true
		}
	})
}

// Place is where objects are kept: s3://bucket/prefix, or a folder.
func Place(where string, cfg aws.Config, s Settings) (objects.Place, error) {
	return objects.Parse(where, func() (*s3.Client, error) { return S3(cfg, s), nil })
}

// RedshiftData makes a client of the Redshift Data API. endpoint replaces its own
// address where it is not "".
func RedshiftData(cfg aws.Config, endpoint string) *redshiftdata.Client {
	return redshiftdata.NewFromConfig(cfg, func(o *redshiftdata.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	})
}

// SQS makes a client for queues that live where queueURL does.
func SQS(cfg aws.Config, queueURL string) *sqs.Client {
	return sqs.NewFromConfig(cfg, func(o *sqs.Options) {
		if u, err := url.Parse(queueURL); err == nil && RegionOf(queueURL) == "" {
			o.BaseEndpoint = aws.String(u.Scheme + "://" + u.Host)
		}
	})
}

// RegionOf reads the region from a queue URL of AWS's own, "" for others.
func RegionOf(queueURL string) string {
	u, err := url.Parse(queueURL)
	if err != nil {
		return ""
	}
	labels := strings.Split(u.Hostname(), ".")
	for i, l := range labels {
		if (l == "sqs" || l == "sqs-fips") && len(labels) > i+3 && labels[i+2] == "amazonaws" {
			return labels[i+1]
		}
	}
	return ""
}

// CheckQueueURL reports what is no queue's URL.
func CheckQueueURL(queueURL string) error {
	u, err := url.Parse(queueURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") == "" {
		return fmt.Errorf("%q is not the URL of a queue: write it as in https://sqs.eu-central-1.amazonaws.com/123456789012/plant; a queue's ARN is not its URL", queueURL)
	}
	return nil
}
