//go:build interop

package interop

import (
	"testing"

	"millrace/internal/sim/awssim/conformance"
)

// The suites that hold millrace's own simulated AWS hold on servers of others.

func TestElasticMQConforms(t *testing.T) {
	conformance.SQS(t, conformance.Endpoint{
		URL: elasticMQ(t),
		// It names in the text what the code should say: "MessageTooLong".
		Codes: map[string][]string{"InvalidAttributeValue": {"InvalidParameterValue", "InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong"}},
		Lacks: map[string]string{
			"empty batch":      "ElasticMQ 1.7.1 takes an empty batch",
			"entry ids":        "ElasticMQ 1.7.1 takes entry ids with spaces",
			"attributes count": "ElasticMQ 1.7.1 does not count attributes into a message's size",
			"delete again":     "ElasticMQ 1.7.1 refuses to delete a message again",
		},
	})
}

func TestDynamoDBLocalConforms(t *testing.T) {
	conformance.DynamoDB(t, conformance.Endpoint{URL: dynamoDBLocal(t)})
}
