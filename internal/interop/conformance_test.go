//go:build interop

package interop

import (
	"testing"

	"millrace/internal/sim/awssim/conformance"
)

// The suites that hold millrace's own simulated AWS hold on servers of others.

func TestElasticMQConforms(t *testing.T) {
	conformance.SQS(t, conformance.Endpoint{URL: elasticMQ(t), Lacks: map[string]string{
		"message attributes": "ElasticMQ 1.7.1 refuses an empty attribute with another code",
		"batch limits":       "ElasticMQ 1.7.1 takes an empty batch, and entry ids with spaces",
		"receive limits":     "ElasticMQ 1.7.1 refuses eleven messages at once with another code",
		"send and receive":   "ElasticMQ 1.7.1 refuses control characters with another code",
		"sizes":              "ElasticMQ 1.7.1 does not count attributes, and refuses with another code",
		"delete":             "ElasticMQ 1.7.1 refuses to delete a message again",
	}})
}

func TestDynamoDBLocalConforms(t *testing.T) {
	conformance.DynamoDB(t, conformance.Endpoint{URL: dynamoDBLocal(t)})
}
