package awssim

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	account       = "000000000000"
	maxSQSBytes   = 1 << 20 // of a message, and of a batch in sum
	maxSQSEntries = 10
	dedupInterval = 5 * time.Minute
	purgeInterval = time.Minute
)

var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// queues is the SQS service.
type queues struct {
	region string
	base   string

	mu     sync.Mutex
	byName map[string]*queue
}

func newQueues(region string) *queues {
	return &queues{region: region, byName: map[string]*queue{}}
}

func (q *queues) url(name string) string { return q.base + "/" + account + "/" + name }

// serve carries out one action.
func (q *queues) serve(c *call) (any, *apiError) {
	switch c.action {
	case "CreateQueue":
		return q.create(c)
	case "DeleteQueue":
		return q.delete(c)
	case "ListQueues":
		return q.list(c)
	case "GetQueueUrl":
		return q.getURL(c)
	case "GetQueueAttributes":
		return q.getAttributes(c)
	case "SetQueueAttributes":
		return q.setAttributes(c)
	case "PurgeQueue":
		return q.purge(c)
	case "SendMessage":
		return q.send(c)
	case "SendMessageBatch":
		return q.sendBatch(c)
	case "ReceiveMessage":
		return q.receive(c)
	case "DeleteMessage", "ChangeMessageVisibility":
		return q.one(c)
	case "DeleteMessageBatch", "ChangeMessageVisibilityBatch":
		return q.batch(c)
	}
	return nil, badRequest("UnsupportedOperation", "the simulator does not know "+c.action)
}

// find returns the queue of a URL.
func (q *queues) find(rawURL string) (*queue, *apiError) {
	u, err := url.Parse(rawURL)
	if err != nil || rawURL == "" {
		return nil, &apiError{status: 404, code: "InvalidAddress", message: "The address " + rawURL + " is not valid for this endpoint."}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if found := q.byName[path.Base(u.Path)]; found != nil {
		return found, nil
	}
	return nil, noQueue()
}

func noQueue() *apiError {
	return &apiError{status: 400, code: "QueueDoesNotExist", query: "AWS.SimpleQueueService.NonExistentQueue",
		message: "The specified queue does not exist."}
}

func invalidParameter(format string, a ...any) *apiError {
	return badRequest("InvalidParameterValue", fmt.Sprintf(format, a...))
}

func (q *queues) create(c *call) (any, *apiError) {
	var in struct {
		QueueName  string
		Attributes map[string]string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	bare, fifo := strings.CutSuffix(in.QueueName, ".fifo")
	if !queueName.MatchString(bare) || len(in.QueueName) > 80 {
		return nil, invalidParameter("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	if (in.Attributes["FifoQueue"] == "true") != fifo {
		return nil, invalidParameter("The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix")
	}
	attrs := maps.Clone(queueDefaults)
	if err := checkQueueAttributes(in.Attributes, true); err != nil {
		return nil, err
	}
	maps.Copy(attrs, in.Attributes)
	now := time.Now()
	attrs["QueueArn"] = "arn:aws:sqs:" + q.region + ":" + account + ":" + in.QueueName
	attrs["CreatedTimestamp"] = strconv.FormatInt(now.Unix(), 10)
	attrs["LastModifiedTimestamp"] = attrs["CreatedTimestamp"]
	q.mu.Lock()
	old := q.byName[in.QueueName]
	if old == nil {
		q.byName[in.QueueName] = &queue{name: in.QueueName, fifo: fifo, attrs: attrs,
			byHandle: map[string]*message{}, dedup: map[string]sentOnce{}, changed: make(chan struct{})}
	}
	q.mu.Unlock()
	if old != nil {
		for k, v := range in.Attributes {
			if old.attribute(k) != v {
				return nil, &apiError{status: 400, code: "QueueNameExists", query: "QueueAlreadyExists",
					message: "A queue already exists with the same name and a different value for attribute " + k}
			}
		}
	}
	return map[string]string{"QueueUrl": q.url(in.QueueName)}, nil
}

func (q *queues) delete(c *call) (any, *apiError) {
	qu, err := q.target(c)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.byName, qu.name)
	return struct{}{}, nil
}

// target finds the queue of a request that has nothing but QueueUrl.
func (q *queues) target(c *call) (*queue, *apiError) {
	var in struct {
		QueueURL string `json:"QueueUrl"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	return q.find(in.QueueURL)
}

func (q *queues) list(c *call) (any, *apiError) {
	var in struct {
		QueueNamePrefix string
		MaxResults      int
		NextToken       string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	most := in.MaxResults
	if most == 0 {
		most = 1000
	}
	if most < 1 || most > 1000 {
		return nil, invalidParameter("MaxResults must be between 1 and 1000")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	out := struct {
		QueueUrls []string `json:",omitempty"`
		NextToken string   `json:",omitempty"`
	}{}
	for _, name := range slices.Sorted(maps.Keys(q.byName)) {
		if !strings.HasPrefix(name, in.QueueNamePrefix) || name <= in.NextToken {
			continue
		}
		if len(out.QueueUrls) == most {
			if in.MaxResults > 0 { // without it there is no paging
				out.NextToken = path.Base(out.QueueUrls[most-1])
			}
			break
		}
		out.QueueUrls = append(out.QueueUrls, q.url(name))
	}
	return out, nil
}

func (q *queues) getURL(c *call) (any, *apiError) {
	var in struct{ QueueName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byName[in.QueueName] == nil {
		return nil, noQueue()
	}
	return map[string]string{"QueueUrl": q.url(in.QueueName)}, nil
}

func (q *queues) getAttributes(c *call) (any, *apiError) {
	var in struct {
		QueueURL       string `json:"QueueUrl"`
		AttributeNames []string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	all := qu.attributes()
	out := map[string]string{}
	for _, n := range in.AttributeNames {
		if n == "All" {
			out = all
			break
		}
		v, known := all[n]
		if known {
			out[n] = v
		} else if !slices.Contains(optionalAttributes, n) {
			return nil, badRequest("InvalidAttributeName", "Unknown Attribute "+n+".")
		}
	}
	return struct {
		Attributes map[string]string `json:",omitempty"`
	}{out}, nil
}

func (q *queues) setAttributes(c *call) (any, *apiError) {
	var in struct {
		QueueURL   string `json:"QueueUrl"`
		Attributes map[string]string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	if err := checkQueueAttributes(in.Attributes, false); err != nil {
		return nil, err
	}
	qu.mu.Lock()
	defer qu.mu.Unlock()
	maps.Copy(qu.attrs, in.Attributes)
	qu.attrs["LastModifiedTimestamp"] = strconv.FormatInt(time.Now().Unix(), 10)
	return struct{}{}, nil
}

func (q *queues) purge(c *call) (any, *apiError) {
	qu, err := q.target(c)
	if err != nil {
		return nil, err
	}
	qu.mu.Lock()
	defer qu.mu.Unlock()
	if time.Since(qu.purged) < purgeInterval {
		return nil, &apiError{status: 403, code: "PurgeQueueInProgress", query: "AWS.SimpleQueueService.PurgeQueueInProgress",
			message: "Only one PurgeQueue operation on " + qu.name + " is allowed every 60 seconds."}
	}
	qu.purged = time.Now()
	qu.messages = nil
	clear(qu.byHandle)
	return struct{}{}, nil
}

// queueDefaults are the attributes of a new queue. SQS API Reference, CreateQueue.
var queueDefaults = map[string]string{
	"DelaySeconds": "0", "MaximumMessageSize": strconv.Itoa(maxSQSBytes), "MessageRetentionPeriod": "345600",
	"ReceiveMessageWaitTimeSeconds": "0", "VisibilityTimeout": "30", "SqsManagedSseEnabled": "true",
}

// optionalAttributes are known, but absent from a queue unless they were set.
var optionalAttributes = []string{"Policy", "RedrivePolicy", "RedriveAllowPolicy", "FifoQueue", "ContentBasedDeduplication",
	"KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds", "DeduplicationScope", "FifoThroughputLimit"}

var attributeRanges = map[string][2]int{
	"DelaySeconds": {0, 900}, "MaximumMessageSize": {1024, maxSQSBytes}, "MessageRetentionPeriod": {60, 1209600},
	"ReceiveMessageWaitTimeSeconds": {0, 20}, "VisibilityTimeout": {0, 43200},
}

func checkQueueAttributes(attrs map[string]string, creating bool) *apiError {
	for k, v := range attrs {
		limits, ranged := attributeRanges[k]
		if !ranged {
			if !slices.Contains(optionalAttributes, k) && k != "SqsManagedSseEnabled" {
				return badRequest("InvalidAttributeName", "Unknown Attribute "+k+".")
			}
			if k == "FifoQueue" && !creating {
				return badRequest("InvalidAttributeName", "You can provide FifoQueue only during queue creation.")
			}
			continue
		}
		if n, err := strconv.Atoi(v); err != nil || n < limits[0] || n > limits[1] {
			return badRequest("InvalidAttributeValue", "Invalid value for the parameter "+k+".")
		}
	}
	return nil
}
