// Package awsconf holds what the AWS sinks share: the settings by which a
// client is made, and the classes of the errors that AWS answers.
package awsconf

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"

	"millrace/internal/secret"
	"millrace/internal/tlsfile"
	"millrace/uploader"
)

// secretLife is how long a secret from a file counts as fresh; it is read again
// after that, so that a rotated one is taken up without a restart.
const secretLife = 5 * time.Minute

// Config is the part of a sink's settings that says where AWS is and who we are.
type Config struct {
	// Region is AWS's name of it: eu-central-1. Where it is empty the sink's own
	// address or AWS_REGION says it.
	Region string `yaml:"region"`
	// Endpoint replaces AWS's own address, for a local stand-in or a VPC
	// endpoint: http://127.0.0.1:9324.
	Endpoint string `yaml:"endpoint"`
	// Credentials are keys of our own; where they are empty the SDK's default
	// chain finds some: environment, ~/.aws, container and instance roles.
	Credentials Credentials `yaml:"credentials"`
	// TLS names the authorities to trust, for an endpoint or a proxy with a
	// certificate of the plant's own.
	TLS tlsfile.Client `yaml:"tls"`
}

// Credentials are an access key of AWS.
type Credentials struct {
	AccessKeyID     string     `yaml:"access_key_id"`
	SecretAccessKey secret.Ref `yaml:"secret_access_key"`
	SessionToken    secret.Ref `yaml:"session_token"`
}

// IsZero reports whether no key was configured.
func (c Credentials) IsZero() bool {
	return c.AccessKeyID == "" && c.SecretAccessKey.IsZero() && c.SessionToken.IsZero()
}

var regionName = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`)

// Validate reports every fault of the settings.
func (c *Config) Validate() []uploader.Fault {
	var faults []uploader.Fault
	if c.Region != "" && !regionName.MatchString(c.Region) {
		faults = append(faults, uploader.Fault{Path: "region", Problem: fmt.Sprintf("%q is not the name of an AWS region", c.Region),
			Hint: "write it as in eu-central-1"})
	}
	if c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			faults = append(faults, uploader.Fault{Path: "endpoint", Problem: fmt.Sprintf("%q is not an http or https URL", c.Endpoint),
				Hint: "leave it out for AWS itself, or write one as in http://127.0.0.1:9324"})
		}
	}
	if k := c.Credentials; !k.IsZero() && (k.AccessKeyID == "" || k.SecretAccessKey.IsZero()) {
		faults = append(faults, uploader.Fault{Path: "credentials", Problem: "access_key_id and secret_access_key go together",
			Hint: "set both, or neither to let the SDK find credentials by itself"})
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		faults = append(faults, uploader.Fault{Path: "tls", Problem: "cert and key go together; only one of them is set", Hint: "set both, or neither"})
	}
	return faults
}

// Load builds the settings of a client. It reads files and the environment, and
// does not touch the network. region is taken where none is configured.
// connections is how many requests may be under way at once; dial connects
// them, or a net.Dialer where it is nil.
func (c *Config) Load(region string, connections int, dial uploader.Dial) (aws.Config, error) {
	if c.Region != "" {
		region = c.Region
	}
	tlsConfig, err := c.TLS.Config()
	if err != nil {
		return aws.Config{}, err
	}
	opts := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient(tlsConfig, connections, dial)),
		// Its logger writes to standard error, outside our log's form and rate;
		// what matters comes back as an error.
		config.WithLogger(logging.Nop{}),
		// One try inside: the delivery loop does the retrying. The SDK's own
		// retry quota runs dry in an outage.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if region != "" {
		opts = append(opts, config.WithRegion(region))
	}
	var cache *aws.CredentialsCache
	if !c.Credentials.IsZero() {
		cache = aws.NewCredentialsCache(secretKeys{c.Credentials})
		opts = append(opts, config.WithCredentialsProvider(cache), config.WithAPIOptions([]func(*middleware.Stack) error{rereading(cache)}))
	}
	out, err := config.LoadDefaultConfig(context.Background(), opts...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("load AWS settings: %w; look at ~/.aws/config and the AWS_ variables", err)
	}
	if out.Region == "" {
		return aws.Config{}, fmt.Errorf("no AWS region is configured; set region, or AWS_REGION in the environment")
	}
	if cache != nil {
		out.Credentials = cache // the SDK's own wrapping would hide it from rereading
	}
	out.Credentials = marked{out.Credentials}
	out.HTTPClient = Steady(out.HTTPClient)
	if c.Endpoint != "" {
		out.BaseEndpoint = aws.String(c.Endpoint)
	}
	return out, nil
}

// secretKeys reads the configured key each time that the cache asks.
type secretKeys struct{ c Credentials }

// Retrieve implements aws.CredentialsProvider.
func (k secretKeys) Retrieve(context.Context) (aws.Credentials, error) {
	secret, err := k.c.SecretAccessKey.Read()
	if err != nil {
		return aws.Credentials{}, err
	}
	token, err := k.c.SessionToken.Read()
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{AccessKeyID: k.c.AccessKeyID, SecretAccessKey: secret, SessionToken: token,
		Source: "millrace", CanExpire: true, Expires: time.Now().Add(secretLife)}, nil
}

// marked makes a failure to find credentials known by its type.
type marked struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider.
func (m marked) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = &credentialsError{err}
	}
	return c, err
}

// credentialsError says that no credentials were found.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no usable credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }
