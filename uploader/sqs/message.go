package sqs

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/sample/block"
	"millrace/uploader"
)

// The values of the attribute schema.
const (
	SchemaBlock = "millrace.block.v1"
	SchemaJSON  = "millrace.json.v1"
	// A block whose header speaks of thinning has version 2 of the format.
	SchemaBlock2 = "millrace.block.v2"
	SchemaJSON2  = "millrace.json.v2"
)

// The message attributes. A consumer can filter on them without the body.
const (
	AttrSchema  = "schema"  // String: one of the above
	AttrSite    = "site"    // String
	AttrGateway = "gateway" // String
	AttrStream  = "stream"  // String
	AttrEpoch   = "epoch"   // String: 16 hexadecimal digits
	AttrSeq     = "seq"     // Number: of the block in its stream and epoch
	AttrFirst   = "first"   // Number: time of the first sample, ns since the Unix epoch
	AttrLast    = "last"    // Number: time of the last sample
	AttrCount   = "count"   // Number: samples in the block
)

const (
	typeString = "String"
	typeNumber = "Number"
)

// field is one attribute of a message.
type field struct{ name, kind, value string }

func (s *sink) fields(b *uploader.Block) [9]field {
	h := &b.Header
	return [9]field{
		{AttrSchema, typeString, s.schemaOf(h)},
		{AttrSite, typeString, h.Site},
		{AttrGateway, typeString, h.Gateway},
		{AttrStream, typeString, h.Stream},
		{AttrEpoch, typeString, fmt.Sprintf("%016x", h.Epoch)},
		{AttrSeq, typeNumber, strconv.FormatUint(h.Seq, 10)},
		{AttrFirst, typeNumber, strconv.FormatInt(h.First, 10)},
		{AttrLast, typeNumber, strconv.FormatInt(h.Last, 10)},
		{AttrCount, typeNumber, strconv.Itoa(h.Count)},
	}
}

func (s *sink) schemaOf(h *block.Header) string {
	switch {
	case h.Version() == 1:
		return s.schema
	case s.schema == SchemaJSON:
		return SchemaJSON2
	}
	return SchemaBlock2
}

func (s *sink) attributes(b *uploader.Block) map[string]types.MessageAttributeValue {
	out := map[string]types.MessageAttributeValue{}
	for _, f := range s.fields(b) {
		out[f.name] = types.MessageAttributeValue{DataType: aws.String(f.kind), StringValue: aws.String(f.value)}
	}
	return out
}

// attributesSize counts as SQS does: name, data type and value of each. SQS
// Developer Guide, "Amazon SQS message metadata".
func (s *sink) attributesSize(b *uploader.Block) int {
	n := 0
	for _, f := range s.fields(b) {
		n += len(f.name) + len(f.kind) + len(f.value)
	}
	return n
}

func blockBody(b *uploader.Block) (string, error) {
	return base64.StdEncoding.EncodeToString(b.Data), nil
}

func blockBodySize(b *uploader.Block) int { return base64.StdEncoding.EncodedLen(len(b.Data)) }

// groupForm is what SQS takes as a message group. SQS API Reference,
// SendMessageBatchRequestEntry.
var groupForm = regexp.MustCompile("^[!-~]{1,128}$")

// tenant is the message group on a standard queue. It is the site: there a group
// makes no order, but has SQS serve the messages of other sites first while one
// site's backlog takes the consumers. A site's name that SQS does not take as a
// group is hashed. SQS Developer Guide, "Amazon SQS fair queues".
func tenant(site string) string {
	if groupForm.MatchString(site) {
		return site
	}
	sum := sha256.Sum256([]byte(site))
	return "site-" + hex.EncodeToString(sum[:16])
}

// groupID keeps one stream's messages in order, and other streams and gateways
// apart. It is in the characters that SQS allows, whatever the site's name.
func groupID(h *block.Header) string {
	sum := sha256.Sum256([]byte(h.Site + "#" + h.Gateway + "#" + h.Stream))
	return hex.EncodeToString(sum[:16])
}

// dedupID is the same for the same block, so that a FIFO queue takes one that
// is sent again after a lost answer once.
func dedupID(b *uploader.Block) string {
	sum := sha256.Sum256([]byte(b.Header.Identity()))
	return hex.EncodeToString(sum[:])
}
