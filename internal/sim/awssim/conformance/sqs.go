package conformance

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// sqsTest is one test's client and queue.
type sqsTest struct {
	*testing.T
	c     *sqs.Client
	queue *string
	peer  Endpoint
}

// mustFail checks the code of an error, by the peer's own names as well.
func (t sqsTest) mustFail(what string, err error, codes ...string) {
	t.Helper()
	for own, documented := range t.peer.Codes {
		if slices.ContainsFunc(documented, func(code string) bool { return slices.Contains(codes, code) }) {
			codes = append(codes, own)
		}
	}
	mustFail(t.T, what, err, codes...)
}

// SQS runs the suite on an SQS endpoint.
func SQS(t *testing.T, e Endpoint) {
	client := sqs.NewFromConfig(e.config())
	for name, test := range map[string]func(sqsTest){
		"queues": sqsQueues, "queue attributes": sqsAttributes, "send and receive": sqsSendReceive, "message attributes": sqsMessageAttributes,
		"batch": sqsBatch, "batch limits": sqsBatchLimits, "empty batch": sqsEmptyBatch, "entry ids": sqsEntryIDs, "sizes": sqsSizes,
		"attributes count": sqsAttributesCount, "visibility": sqsVisibility, "receive limits": sqsReceiveLimits, "long poll": sqsLongPoll,
		"delay": sqsDelay, "delete": sqsDelete, "delete again": sqsDeleteAgain, "purge": sqsPurge, "groups": sqsGroups, "fifo": sqsFIFO, "dead letters": sqsDeadLetters,
		"missing queue": sqsMissing,
	} {
		e.run(t, name, func(t *testing.T) {
			q := must[*sqs.CreateQueueOutput](t)(client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(unique("conf"))}))
			test(sqsTest{t, client, q.QueueUrl, e})
		})
	}
}

func (t sqsTest) send(body string) *sqs.SendMessageOutput {
	t.Helper()
	return must[*sqs.SendMessageOutput](t.T)(t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: &body}))
}

// receive takes up to ten messages with everything that is known of them.
func (t sqsTest) receive(visibility, wait int32) []types.Message {
	t.Helper()
	return must[*sqs.ReceiveMessageOutput](t.T)(t.c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: t.queue, MaxNumberOfMessages: 10,
		VisibilityTimeout: visibility, WaitTimeSeconds: wait, MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll}})).Messages
}

func bodies(list []types.Message) []string {
	var out []string
	for _, m := range list {
		out = append(out, *m.Body)
	}
	slices.Sort(out)
	return out
}

func (t sqsTest) want(what string, list []types.Message, want ...string) {
	t.Helper()
	if got := bodies(list); !slices.Equal(got, want) {
		t.Errorf("%s: received %q, want %q", what, got, want)
	}
}

func sqsQueues(t sqsTest) {
	name := unique("queues")
	made := must[*sqs.CreateQueueOutput](t.T)(t.c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "40"}}))
	again := must[*sqs.CreateQueueOutput](t.T)(t.c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "40"}}))
	got := must[*sqs.GetQueueUrlOutput](t.T)(t.c.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &name}))
	if *made.QueueUrl != *again.QueueUrl || *made.QueueUrl != *got.QueueUrl || !strings.HasSuffix(*made.QueueUrl, "/"+name) {
		t.Errorf("one queue has URLs %s, %s, %s", *made.QueueUrl, *again.QueueUrl, *got.QueueUrl)
	}
	_, err := t.c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "50"}})
	t.mustFail("the same name with another attribute", err, "QueueNameExists", "QueueAlreadyExists")
	list := must[*sqs.ListQueuesOutput](t.T)(t.c.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: &name}))
	if !slices.Equal(list.QueueUrls, []string{*made.QueueUrl}) {
		t.Errorf("ListQueues gives %v", list.QueueUrls)
	}
}

func sqsAttributes(t sqsTest) {
	get := func(names ...types.QueueAttributeName) map[string]string {
		t.Helper()
		return must[*sqs.GetQueueAttributesOutput](t.T)(t.c.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: t.queue, AttributeNames: names})).Attributes
	}
	all := get(types.QueueAttributeNameAll)
	for name, want := range map[string]string{"VisibilityTimeout": "30", "DelaySeconds": "0", "ReceiveMessageWaitTimeSeconds": "0", "ApproximateNumberOfMessages": "0"} {
		if all[name] != want {
			t.Errorf("a new queue has %s %q, want %q", name, all[name], want)
		}
	}
	if !strings.HasPrefix(all["QueueArn"], "arn:aws:sqs:") {
		t.Errorf("QueueArn is %q", all["QueueArn"])
	}
	_, err := t.c.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: t.queue, Attributes: map[string]string{"VisibilityTimeout": "77"}})
	if err != nil {
		t.Fatal(err)
	}
	if one := get("VisibilityTimeout"); len(one) != 1 || one["VisibilityTimeout"] != "77" {
		t.Errorf("after setting, VisibilityTimeout alone gives %v", one)
	}
	t.send("a")
	if n := get("ApproximateNumberOfMessages")["ApproximateNumberOfMessages"]; n != "1" {
		t.Errorf("with one message there are %s", n)
	}
}

func sqsSendReceive(t sqsTest) {
	body := "grüße\t<&>\n\"😀\""
	sent := t.send(body)
	list := t.receive(30, 2)
	if len(list) != 1 {
		t.Fatalf("received %d messages, want 1", len(list))
	}
	m := list[0]
	sum := md5.Sum([]byte(body))
	if want := hex.EncodeToString(sum[:]); *m.MD5OfBody != want || *sent.MD5OfMessageBody != want {
		t.Errorf("MD5 is %s when sent and %s when received, want %s", *sent.MD5OfMessageBody, *m.MD5OfBody, want)
	}
	if *m.Body != body || *m.MessageId != *sent.MessageId || aws.ToString(m.ReceiptHandle) == "" {
		t.Errorf("received %q with id %s, sent %q with %s", *m.Body, *m.MessageId, body, *sent.MessageId)
	}
	if m.Attributes["ApproximateReceiveCount"] != "1" || m.Attributes["SentTimestamp"] == "" {
		t.Errorf("system attributes are %v", m.Attributes)
	}
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("bad \x01")})
	t.mustFail("a control character in the body", err, "InvalidMessageContents", "InvalidParameterValue")
}

func sqsMessageAttributes(t sqsTest) {
	in := map[string]types.MessageAttributeValue{
		"site": {DataType: aws.String("String"), StringValue: aws.String("Süd")},
		"seq":  {DataType: aws.String("Number"), StringValue: aws.String("18446744073709551615")},
		"raw":  {DataType: aws.String("Binary"), BinaryValue: []byte{0, 1, 255}},
	}
	sent := must[*sqs.SendMessageOutput](t.T)(t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("b"), MessageAttributes: in}))
	m := t.receive(30, 2)[0]
	if len(m.MessageAttributes) != 3 || *m.MessageAttributes["site"].StringValue != "Süd" || *m.MessageAttributes["seq"].StringValue != "18446744073709551615" ||
		string(m.MessageAttributes["raw"].BinaryValue) != "\x00\x01\xff" || *m.MessageAttributes["seq"].DataType != "Number" {
		t.Errorf("attributes come back as %v", m.MessageAttributes)
	}
	// Developer Guide, "Calculating the MD5 message digest for message attributes".
	const want = "1abc2eeea6c1738fec3a10c3ccc4265c"
	if got := aws.ToString(sent.MD5OfMessageAttributes); got != want || aws.ToString(m.MD5OfMessageAttributes) != want {
		t.Errorf("MD5 of the attributes is %s when sent and %s when received, want %s", got, aws.ToString(m.MD5OfMessageAttributes), want)
	}
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("b"),
		MessageAttributes: map[string]types.MessageAttributeValue{"empty": {DataType: aws.String("String"), StringValue: aws.String("")}}})
	t.mustFail("an empty attribute", err, "InvalidParameterValue")
}

func entries(n int) []types.SendMessageBatchRequestEntry {
	var out []types.SendMessageBatchRequestEntry
	for i := range n {
		out = append(out, types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprintf("e-%d", i)), MessageBody: aws.String(fmt.Sprintf("m%02d", i))})
	}
	return out
}

func sqsBatch(t sqsTest) {
	out := must[*sqs.SendMessageBatchOutput](t.T)(t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: t.queue, Entries: entries(10)}))
	if len(out.Successful) != 10 || len(out.Failed) != 0 {
		t.Fatalf("%d entries succeeded, %d failed", len(out.Successful), len(out.Failed))
	}
	var ids []string
	for _, s := range out.Successful {
		ids = append(ids, *s.Id)
	}
	slices.Sort(ids)
	if ids[0] != "e-0" || ids[9] != "e-9" || len(slices.Compact(ids)) != 10 {
		t.Errorf("the answer names %v", ids)
	}
	// A batch is partial: what is wrong with one entry does not hurt the others.
	mixed := entries(3)
	mixed[1].MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: aws.String("Number"), StringValue: aws.String("no number")}}
	out = must[*sqs.SendMessageBatchOutput](t.T)(t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: t.queue, Entries: mixed}))
	if len(out.Successful) != 2 || len(out.Failed) != 1 || *out.Failed[0].Id != "e-1" || !out.Failed[0].SenderFault || aws.ToString(out.Failed[0].Code) == "" {
		t.Errorf("a bad entry among good ones: %d succeeded, failed %+v", len(out.Successful), out.Failed)
	}
}

// refuses checks that a batch is refused, and all of it.
func (t sqsTest) refuses(what string, list []types.SendMessageBatchRequestEntry, code string) {
	t.Helper()
	_, err := t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: t.queue, Entries: list})
	t.mustFail(what, err, code, "AWS.SimpleQueueService."+code)
	t.want("after "+what, t.receive(0, 0))
}

func sqsBatchLimits(t sqsTest) {
	t.refuses("eleven entries", entries(11), "TooManyEntriesInBatchRequest")
	twice := entries(2)
	twice[1].Id = twice[0].Id
	t.refuses("an id twice", twice, "BatchEntryIdsNotDistinct")
}

func sqsEmptyBatch(t sqsTest) {
	t.refuses("no entries", []types.SendMessageBatchRequestEntry{}, "EmptyBatchRequest")
}

func sqsEntryIDs(t sqsTest) {
	bad := entries(1)
	bad[0].Id = aws.String("not an id")
	t.refuses("an id with spaces", bad, "InvalidBatchEntryId")
}

// sizeLimit is that of a message and of a batch, in bytes.
const sizeLimit = 1 << 20

func sqsSizes(t sqsTest) {
	t.send(strings.Repeat("x", sizeLimit))
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String(strings.Repeat("x", sizeLimit+1))})
	t.mustFail("a message of a byte beyond 1 MiB", err, "InvalidParameterValue", "MessageTooLong")
	half := entries(2)
	half[0].MessageBody, half[1].MessageBody = aws.String(strings.Repeat("x", sizeLimit/2)), aws.String(strings.Repeat("y", sizeLimit/2+1))
	_, err = t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: t.queue, Entries: half})
	t.mustFail("a batch of a byte beyond 1 MiB", err, "BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong")
	half[1].MessageBody = aws.String(strings.Repeat("y", sizeLimit/2))
	if _, err = t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: t.queue, Entries: half}); err != nil {
		t.Errorf("a batch of 1 MiB: %v", err)
	}
}

// sqsAttributesCount: an attribute's name, data type and value count.
func sqsAttributesCount(t sqsTest) {
	attrs := map[string]types.MessageAttributeValue{"name": {DataType: aws.String("String"), StringValue: aws.String("value")}}
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String(strings.Repeat("x", sizeLimit-15)), MessageAttributes: attrs})
	if err != nil {
		t.Errorf("a message of 1 MiB with its attributes: %v", err)
	}
	_, err = t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String(strings.Repeat("x", sizeLimit-14)), MessageAttributes: attrs})
	t.mustFail("a message of a byte beyond 1 MiB with its attributes", err, "InvalidParameterValue", "MessageTooLong")
}

func sqsVisibility(t sqsTest) {
	t.send("a")
	first := t.receive(1, 2)
	t.want("the first time", first, "a")
	t.want("while it is in flight", t.receive(30, 0))
	second := t.receive(30, 5)
	t.want("once its time is over", second, "a")
	if n := second[0].Attributes["ApproximateReceiveCount"]; n != "2" {
		t.Errorf("received for the second time, it counts %s", n)
	}
	if *second[0].MessageId != *first[0].MessageId {
		t.Error("the message has another id the second time")
	}
	_, err := t.c.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: t.queue, ReceiptHandle: second[0].ReceiptHandle, VisibilityTimeout: 0})
	if err != nil {
		t.Fatal(err)
	}
	third := t.receive(30, 2)
	t.want("after it was given back", third, "a")
	out := must[*sqs.ChangeMessageVisibilityBatchOutput](t.T)(t.c.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: t.queue,
		Entries: []types.ChangeMessageVisibilityBatchRequestEntry{{Id: aws.String("1"), ReceiptHandle: third[0].ReceiptHandle, VisibilityTimeout: 0}}}))
	if len(out.Successful) != 1 || len(out.Failed) != 0 {
		t.Errorf("giving it back in a batch: %+v", out)
	}
	t.want("after it was given back in a batch", t.receive(30, 2), "a")
}

func sqsReceiveLimits(t sqsTest) {
	for i := range 15 {
		t.send(fmt.Sprint(i))
	}
	one := must[*sqs.ReceiveMessageOutput](t.T)(t.c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: t.queue}))
	if len(one.Messages) != 1 {
		t.Errorf("without a number %d messages were received, want 1", len(one.Messages))
	}
	if len(one.Messages) > 0 && (len(one.Messages[0].Attributes) > 0 || len(one.Messages[0].MessageAttributes) > 0) {
		t.Error("attributes came that were not asked for")
	}
	seen := len(one.Messages)
	for range 20 {
		n := len(t.receive(30, 0))
		if n > 10 {
			t.Errorf("%d messages at once", n)
		}
		seen += n
	}
	if seen != 15 {
		t.Errorf("%d messages were received in all, want 15", seen)
	}
	_, err := t.c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: t.queue, MaxNumberOfMessages: 11})
	t.mustFail("eleven at once", err, "InvalidParameterValue", "ReadCountOutOfRange")
}

func sqsLongPoll(t sqsTest) {
	start := time.Now()
	t.want("an empty queue", t.receive(30, 1))
	if d := time.Since(start); d < 900*time.Millisecond || d > 5*time.Second {
		t.Errorf("a wait of 1 s took %s", d)
	}
	sent := make(chan error, 1)
	go func() {
		time.Sleep(300 * time.Millisecond) // the queue is real, and so is its time
		_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("late")})
		sent <- err
	}()
	start = time.Now()
	t.want("a message that comes while we wait", t.receive(30, 10), "late")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func sqsDelay(t sqsTest) {
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("a"), DelaySeconds: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.want("before the delay is over", t.receive(30, 0))
	t.want("after it", t.receive(30, 5), "a")
}

func sqsDelete(t sqsTest) {
	for _, b := range []string{"a", "b", "c"} {
		t.send(b)
	}
	list := t.receive(1, 2)
	if len(list) != 3 {
		t.Skipf("a short poll gave %d of 3 messages, which is allowed", len(list))
	}
	if _, err := t.c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: t.queue, ReceiptHandle: list[0].ReceiptHandle}); err != nil {
		t.Fatal(err)
	}
	out := must[*sqs.DeleteMessageBatchOutput](t.T)(t.c.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: t.queue,
		Entries: []types.DeleteMessageBatchRequestEntry{{Id: aws.String("x"), ReceiptHandle: list[1].ReceiptHandle}}}))
	if len(out.Successful) != 1 || *out.Successful[0].Id != "x" {
		t.Errorf("DeleteMessageBatch gives %+v", out)
	}
	t.want("after two of three were deleted", t.receive(30, 5), *list[2].Body)
	_, err := t.c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: t.queue, ReceiptHandle: aws.String("nonsense")})
	t.mustFail("a handle that is none", err, "ReceiptHandleIsInvalid", "InvalidParameterValue")
}

func sqsDeleteAgain(t sqsTest) {
	t.send("a")
	handle := t.receive(30, 2)[0].ReceiptHandle
	for _, when := range []string{"deleting it", "deleting it again"} {
		if _, err := t.c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: t.queue, ReceiptHandle: handle}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func sqsPurge(t sqsTest) {
	t.send("a")
	if _, err := t.c.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: t.queue}); err != nil {
		t.Fatal(err)
	}
	t.want("after a purge", t.receive(30, 1))
}

// sqsGroups: on a standard queue a group is a name and makes no order. SQS API
// Reference, SendMessage, MessageGroupId.
func sqsGroups(t sqsTest) {
	for _, body := range []string{"a", "b"} {
		if _, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: &body, MessageGroupId: aws.String("north!~")}); err != nil {
			t.Fatal(err)
		}
	}
	first := t.receive(30, 1)
	if len(first) == 1 { // the other one comes while it is in flight
		first = append(first, t.receive(30, 1)...)
	}
	t.want("of one group", first, "a", "b")
}

func sqsFIFO(t sqsTest) {
	name := unique("conf") + ".fifo"
	t.queue = must[*sqs.CreateQueueOutput](t.T)(t.c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"FifoQueue": "true"}})).QueueUrl
	send := func(group, dedup, body string) *sqs.SendMessageOutput {
		t.Helper()
		return must[*sqs.SendMessageOutput](t.T)(t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: &body, MessageGroupId: &group, MessageDeduplicationId: &dedup}))
	}
	a := send("g", "1", "a")
	again := send("g", "1", "a")
	send("g", "2", "b")
	send("h", "3", "c")
	if *a.MessageId != *again.MessageId {
		t.Errorf("one deduplication id has messages %s and %s", *a.MessageId, *again.MessageId)
	}
	one := must[*sqs.ReceiveMessageOutput](t.T)(t.c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: t.queue, MaxNumberOfMessages: 1, VisibilityTimeout: 30})).Messages
	t.want("first", one, "a")
	t.want("while the first of the group is in flight", t.receive(30, 0), "c")
	if _, err := t.c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: t.queue, ReceiptHandle: one[0].ReceiptHandle}); err != nil {
		t.Fatal(err)
	}
	t.want("after it was deleted", t.receive(30, 2), "b")
	_, err := t.c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: t.queue, MessageBody: aws.String("x"), MessageDeduplicationId: aws.String("9")})
	t.mustFail("no group", err, "MissingParameter", "InvalidParameterValue")
}

func sqsDeadLetters(t sqsTest) {
	dead := must[*sqs.CreateQueueOutput](t.T)(t.c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(unique("dead"))})).QueueUrl
	arn := must[*sqs.GetQueueAttributesOutput](t.T)(t.c.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: dead, AttributeNames: []types.QueueAttributeName{"QueueArn"}})).Attributes["QueueArn"]
	_, err := t.c.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: t.queue,
		Attributes: map[string]string{"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":"2"}`, arn)}})
	if err != nil {
		t.Fatal(err)
	}
	t.send("poison")
	t.want("first time", t.receive(1, 2), "poison")
	t.want("second time", t.receive(1, 5), "poison")
	t.want("third time", t.receive(1, 3))
	t.queue = dead
	t.want("in the dead-letter queue", t.receive(30, 2), "poison")
}

func sqsMissing(t sqsTest) {
	none := aws.String(*t.queue + "-none")
	codes := []string{"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}
	_, err := t.c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: none, Entries: entries(1)})
	t.mustFail("SendMessageBatch", err, codes...)
	_, err = t.c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: none})
	t.mustFail("ReceiveMessage", err, codes...)
	_, err = t.c.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String(unique("none"))})
	t.mustFail("GetQueueUrl", err, codes...)
}
