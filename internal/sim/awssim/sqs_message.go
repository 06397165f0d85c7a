package awssim

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

var (
	entryID       = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	attributeName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,256}$`)
	tokenText     = regexp.MustCompile("^[A-Za-z0-9!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]{1,128}$")
)

// outgoing is a message to send, as SendMessage and a batch's entries have it.
type outgoing struct {
	ID                     string `json:"Id"`
	MessageBody            string
	DelaySeconds           *int
	MessageAttributes      map[string]attributeValue
	MessageDeduplicationID string `json:"MessageDeduplicationId"`
	MessageGroupID         string `json:"MessageGroupId"`
}

// size counts as SQS does: the body, and of each attribute name, type and value.
func (o *outgoing) size() int {
	n := len(o.MessageBody)
	for name, v := range o.MessageAttributes {
		n += len(name) + len(v.DataType) + len(v.BinaryValue)
		if v.StringValue != nil {
			n += len(*v.StringValue)
		}
	}
	return n
}

type sent struct {
	ID                     string `json:"Id,omitempty"`
	MessageID              string `json:"MessageId"`
	MD5OfMessageBody       string
	MD5OfMessageAttributes string `json:",omitempty"`
	SequenceNumber         string `json:",omitempty"`
}

type batchFault struct {
	ID          string `json:"Id"`
	Code        string
	Message     string
	SenderFault bool
}

type sentBatch struct {
	Successful []sent
	Failed     []batchFault `json:",omitempty"`
}

func (q *queues) send(c *call) (any, *apiError) {
	var in struct {
		QueueURL string `json:"QueueUrl"`
		outgoing
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	return q.put(c, qu, &in.outgoing)
}

func (q *queues) sendBatch(c *call) (any, *apiError) {
	var in struct {
		QueueURL string `json:"QueueUrl"`
		Entries  []outgoing
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	qu, err := q.find(in.QueueURL)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(in.Entries))
	total := 0
	for i := range in.Entries {
		ids[i] = in.Entries[i].ID
		total += in.Entries[i].size()
	}
	if err := checkBatch(ids); err != nil {
		return nil, err
	}
	if total > maxSQSBytes {
		return nil, &apiError{status: 400, code: "BatchRequestTooLong", query: "AWS.SimpleQueueService.BatchRequestTooLong",
			message: "Batch requests cannot be longer than " + strconv.Itoa(maxSQSBytes) + " bytes. You have sent " + strconv.Itoa(total) + " bytes."}
	}
	out := sentBatch{Successful: []sent{}}
	for i := range in.Entries {
		e := &in.Entries[i]
		if c.partial() {
			out.Failed = append(out.Failed, batchFault{e.ID, "InternalError", "The entry could not be stored.", false})
			continue
		}
		s, fault := q.put(c, qu, e)
		if fault != nil {
			out.Failed = append(out.Failed, batchFault{e.ID, fault.code, fault.message, fault.status < 500})
			continue
		}
		s.ID = e.ID
		out.Successful = append(out.Successful, s)
	}
	return out, nil
}

// checkBatch holds for the entries of every batch action.
func checkBatch(ids []string) *apiError {
	switch {
	case len(ids) == 0:
		return &apiError{status: 400, code: "EmptyBatchRequest", query: "AWS.SimpleQueueService.EmptyBatchRequest",
			message: "There should be at least one entry in the request."}
	case len(ids) > maxSQSEntries:
		return &apiError{status: 400, code: "TooManyEntriesInBatchRequest", query: "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
			message: "Maximum number of entries per request are 10. You have sent " + strconv.Itoa(len(ids)) + "."}
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if !entryID.MatchString(id) {
			return &apiError{status: 400, code: "InvalidBatchEntryId", query: "AWS.SimpleQueueService.InvalidBatchEntryId",
				message: "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long."}
		}
		if seen[id] {
			return &apiError{status: 400, code: "BatchEntryIdsNotDistinct", query: "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
				message: "Id " + id + " repeated."}
		}
		seen[id] = true
	}
	return nil
}

// put checks a message and stores it.
func (q *queues) put(c *call, qu *queue, o *outgoing) (sent, *apiError) {
	most, _ := strconv.Atoi(qu.attribute("MaximumMessageSize")) // checked when it was set
	if o.MessageBody == "" {
		return sent{}, &apiError{status: 400, code: "MissingParameter", message: "The request must contain the parameter MessageBody."}
	}
	if n := o.size(); n > most {
		return sent{}, invalidParameter("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", most)
	}
	if !validText(o.MessageBody) {
		return sent{}, badRequest("InvalidMessageContents", "Invalid characters in the message body.")
	}
	if err := checkMessageAttributes(o.MessageAttributes); err != nil {
		return sent{}, err
	}
	delay := time.Duration(-1)
	if o.DelaySeconds != nil {
		if *o.DelaySeconds < 0 || *o.DelaySeconds > 900 {
			return sent{}, invalidParameter("Value %d for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900.", *o.DelaySeconds)
		}
		if qu.fifo && *o.DelaySeconds > 0 {
			return sent{}, invalidParameter("Value %d for parameter DelaySeconds is invalid. Reason: The request include parameter that is not valid for this queue type.", *o.DelaySeconds)
		}
		if !qu.fifo {
			delay = time.Duration(*o.DelaySeconds) * time.Second
		}
	}
	if o.MessageGroupID != "" && !tokenText.MatchString(o.MessageGroupID) {
		return sent{}, invalidParameter("Value %s for parameter MessageGroupId is invalid.", o.MessageGroupID)
	}
	if qu.fifo {
		if o.MessageGroupID == "" {
			return sent{}, &apiError{status: 400, code: "MissingParameter", message: "The request must contain the parameter MessageGroupId."}
		}
		if o.MessageDeduplicationID == "" && qu.attribute("ContentBasedDeduplication") == "true" {
			sum := sha256.Sum256([]byte(o.MessageBody))
			o.MessageDeduplicationID = hex.EncodeToString(sum[:])
		}
		if !tokenText.MatchString(o.MessageDeduplicationID) {
			return sent{}, invalidParameter("The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
		}
	} else if o.MessageDeduplicationID != "" {
		return sent{}, invalidParameter("Value %s for parameter MessageDeduplicationId is invalid. Reason: The request includes a parameter that is not valid for this queue type.", o.MessageDeduplicationID)
	}
	m := &message{id: newID(), body: o.MessageBody, md5: md5Hex([]byte(o.MessageBody)), attrs: o.MessageAttributes,
		md5Attrs: md5Attributes(o.MessageAttributes), group: o.MessageGroupID, dedup: o.MessageDeduplicationID}
	a := Accepted{Service: ServiceSQS, Place: qu.name, Key: []byte(m.id), Body: []byte(m.body)}
	if c.refuse(a) {
		return sent{}, badRequest("InvalidMessageContents", "The message contains what the queue does not take.")
	}
	if qu.add(m, delay) {
		c.accepted = append(c.accepted, a)
	}
	return sent{MessageID: m.id, MD5OfMessageBody: m.md5, MD5OfMessageAttributes: m.md5Attrs, SequenceNumber: m.seq}, nil
}

func checkMessageAttributes(attrs map[string]attributeValue) *apiError {
	if len(attrs) > 10 {
		return invalidParameter("Number of message attributes [%d] exceeds the allowed maximum [10].", len(attrs))
	}
	for name, v := range attrs {
		lower := strings.ToLower(name)
		if !attributeName.MatchString(name) || strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") ||
			strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
			return invalidParameter("Message attribute name '%s' is invalid.", name)
		}
		kind, _, _ := strings.Cut(v.DataType, ".")
		switch kind {
		case "String", "Number":
			if v.StringValue == nil || *v.StringValue == "" || !validText(*v.StringValue) {
				return invalidParameter("Message attribute '%s' must contain a non-empty value of type '%s'.", name, kind)
			}
			if kind == "Number" {
				if _, err := strconv.ParseFloat(*v.StringValue, 64); err != nil {
					return invalidParameter("Can't cast the value of message attribute '%s' to a number.", name)
				}
			}
		case "Binary":
			if len(v.BinaryValue) == 0 {
				return invalidParameter("Message attribute '%s' must contain a non-empty value of type 'Binary'.", name)
			}
		default:
			return invalidParameter("The message attribute '%s' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String.", name)
		}
	}
	return nil
}

// validText reports whether SQS takes the characters. SQS API Reference, SendMessage.
func validText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !(r == 0x9 || r == 0xA || r == 0xD || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000) {
			return false
		}
	}
	return true
}

func md5Hex(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// md5Attributes is the digest of message attributes. SQS Developer Guide,
// "Calculating the MD5 message digest for message attributes".
func md5Attributes(attrs map[string]attributeValue) string {
	if len(attrs) == 0 {
		return ""
	}
	var b []byte
	field := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		v := attrs[name]
		field(name)
		field(v.DataType)
		if v.StringValue != nil {
			b = append(b, 1)
			field(*v.StringValue)
		} else {
			b = append(b, 2)
			field(string(v.BinaryValue))
		}
	}
	return md5Hex(b)
}
