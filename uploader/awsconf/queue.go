package awsconf

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"millrace/uploader"
)

// CheckQueueURL reports what is wrong with the setting queue_url.
func CheckQueueURL(queueURL string) []uploader.Fault {
	u, err := url.Parse(queueURL)
	switch {
	case queueURL == "":
		return []uploader.Fault{{Path: "queue_url", Problem: "it is missing",
			Hint: "copy the URL from the SQS console, or: aws sqs get-queue-url --queue-name NAME"}}
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || path.Base(u.Path) == "/" || path.Base(u.Path) == ".":
		return []uploader.Fault{{Path: "queue_url", Problem: fmt.Sprintf("%q is not the URL of a queue", queueURL),
			Hint: "write it as in https://sqs.eu-central-1.amazonaws.com/123456789012/plant; a queue's ARN is not its URL"}}
	}
	return nil
}

// LoadForQueue is Load for the client of an SQS queue: the queue's URL says
// region and endpoint where the settings do not.
func (c *Config) LoadForQueue(queueURL string, connections int, dial uploader.Dial) (aws.Config, error) {
	region := regionOf(queueURL)
	cfg, err := c.Load(region, connections, dial)
	if err != nil {
		return cfg, err
	}
	if cfg.BaseEndpoint == nil && region == "" {
		// A queue that is not AWS's own lives where its URL says.
		if u, err := url.Parse(queueURL); err == nil {
			cfg.BaseEndpoint = aws.String(u.Scheme + "://" + u.Host)
		}
	}
	return cfg, nil
}

// regionOf reads the region from a queue URL of AWS's own, "" for others.
func regionOf(queueURL string) string {
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
