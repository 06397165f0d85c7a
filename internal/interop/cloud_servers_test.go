//go:build interop

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/connect"
	"millrace/cloud/objects"
)

// fauxqs starts fauxqs, which plays SQS, and returns its endpoint.
func fauxqs(t *testing.T) string {
	t.Helper()
	modules, port := installed(t, "FAUXQS"), freePort(t)
	start(t, port, nil, nil, "node", script(t, "loopback_fauxqs.mjs"), modules, fmt.Sprint(port))
	return "http://" + address(port)
}

// dynalite starts dynalite, which plays DynamoDB, and returns its endpoint.
func dynalite(t *testing.T) string {
	t.Helper()
	modules, port := installed(t, "DYNALITE"), freePort(t)
	start(t, port, nil, nil, "node", filepath.Join(modules, "dynalite", "cli.js"),
		"--host", "127.0.0.1", "--port", fmt.Sprint(port), "--createTableMs", "50", "--updateTableMs", "50", "--deleteTableMs", "50")
	return "http://" + address(port)
}

// moto starts moto, which plays SQS, DynamoDB, S3 and many more behind one
// endpoint, and returns that.
func moto(t *testing.T) string {
	t.Helper()
	server, port := installed(t, "MOTO"), freePort(t)
	start(t, port, nil, []string{"PYTHONUNBUFFERED=1"}, server, "-H", "127.0.0.1", "-p", fmt.Sprint(port))
	return "http://" + address(port)
}

// bucketOn makes a bucket on a stand-in of S3 and returns it as a place.
func bucketOn(t *testing.T, endpoint, name string) objects.Place {
	t.Helper()
	keys(t)
	s := connect.Settings{Region: region, S3Endpoint: endpoint}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect.S3(cfg, s).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name,
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region}})
	if err != nil {
		t.Fatal(err)
	}
	place, err := connect.Place("s3://"+name+"/plant", cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// queueOn makes a queue as cloud/deploy/template.yaml does and returns its URL.
func queueOn(t *testing.T, client *awssqs.Client, name string) string {
	t.Helper()
	made, err := client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{
		string(sqstypes.QueueAttributeNameMaximumMessageSize):     "1048576",
		string(sqstypes.QueueAttributeNameMessageRetentionPeriod): "1209600",
	}})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(made.QueueUrl)
}

// The stand-ins are reachable from this machine alone.
func TestCloudServersListenOnLoopbackOnly(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) string{"fauxqs": fauxqs, "dynalite": dynalite, "moto": moto} {
		t.Run(name, func(t *testing.T) {
			_, port, _ := strings.Cut(strings.TrimPrefix(begin(t), "http://"), ":")
			refuses(t, port)
		})
	}
}
