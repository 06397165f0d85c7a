package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// What a request may hold, whatever its size allows. The library's own decoder
// allocates what a length in the message says, and follows nested values
// without end; a stranger's first message would end the gateway. So requests are
// decoded here, into the library's types.
const (
	// maxDepth bounds values within values; the deepest structure of a request
	// that is served has five levels.
	maxDepth = 16
	// maxElements bounds the elements of all arrays of a request together.
	maxElements = 20_000
)

var errMalformed = errors.New("malformed")

// decoder reads OPC UA binary, OPC 10000-6, 5.2. After its first error it
// returns zeros.
type decoder struct {
	b        []byte
	elements int
	err      error
}

func newDecoder(b []byte) *decoder { return &decoder{b: b, elements: maxElements} }

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errMalformed, what)
	}
}

// take returns the next n bytes, which are the message's own.
func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.fail("it ends early")
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// length reads that of a string or an array; null is 0.
func (d *decoder) length() int {
	n := int32(d.u32())
	if n < -1 {
		d.fail("a length below -1")
	}
	return int(max(n, 0))
}

// bytes returns a copy, so that a request does not hold on to its message.
func (d *decoder) bytes() []byte {
	b := d.take(d.length())
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

func (d *decoder) str() string { return string(d.take(d.length())) }

// array returns how many elements follow, each at least one byte.
func (d *decoder) array() int {
	n := d.length()
	if n > len(d.b) || n > d.elements {
		d.fail("an array longer than the message or the limit")
		return 0
	}
	d.elements -= n
	return n
}

// DateTime counts 100 ns from 1601: OPC 10000-6, 5.2.2.5.
const ticksAt1970 = 116444736000000000

func (d *decoder) time() time.Time {
	ticks := int64(d.u64())
	if ticks <= 0 {
		return time.Time{}
	}
	since := ticks - ticksAt1970
	return time.Unix(since/1e7, since%1e7*100).UTC()
}

// library has a type of the library's decode itself, which must be one of
// bounded size; skip has found its length.
func (d *decoder) library(into ua.BinaryDecoder, n int) {
	b := d.take(n)
	if d.err != nil {
		return
	}
	if _, err := into.Decode(b); err != nil {
		d.fail(err.Error())
	}
}

// measure returns how many bytes skip passes.
func (d *decoder) measure(skip func(*decoder)) int {
	probe := *d
	skip(&probe)
	if probe.err != nil {
		d.err = probe.err
		return 0
	}
	return len(d.b) - len(probe.b)
}

// skipNodeID passes a node id, or an expanded one, OPC 10000-6, 5.2.2.9 and
// 5.2.2.10.
func (d *decoder) skipNodeID(expanded bool) {
	mask := d.u8()
	switch mask & 0x3f {
	case 0:
		d.take(1)
	case 1:
		d.take(3)
	case 2:
		d.take(6)
	case 3, 5:
		d.take(2)
		d.take(d.length())
	case 4:
		d.take(18)
	default:
		d.fail("an unknown kind of node id")
	}
	switch {
	case !expanded && mask&0xc0 != 0:
		d.fail("a node id with flags")
	case expanded:
		if mask&0x80 != 0 {
			d.take(d.length())
		}
		if mask&0x40 != 0 {
			d.take(4)
		}
	}
}

func (d *decoder) nodeID() *ua.NodeID {
	out := new(ua.NodeID)
	d.library(out, d.measure(func(d *decoder) { d.skipNodeID(false) }))
	return out
}

func (d *decoder) expandedNodeID() *ua.ExpandedNodeID {
	out := &ua.ExpandedNodeID{NodeID: new(ua.NodeID)}
	d.library(out, d.measure(func(d *decoder) { d.skipNodeID(true) }))
	return out
}

func (d *decoder) localizedText() *ua.LocalizedText {
	out := &ua.LocalizedText{EncodingMask: d.u8()}
	if out.Has(ua.LocalizedTextLocale) {
		out.Locale = d.str()
	}
	if out.Has(ua.LocalizedTextText) {
		out.Text = d.str()
	}
	return out
}

// extensionObject decodes the bodies that requests of this server can have use
// for. Any other is passed over, and its Value is nil.
func (d *decoder) extensionObject(depth int) *ua.ExtensionObject {
	out := &ua.ExtensionObject{TypeID: d.expandedNodeID(), EncodingMask: d.u8()}
	if out.EncodingMask == ua.ExtensionObjectEmpty {
		return out
	}
	body := newDecoder(d.take(d.length()))
	if d.err != nil || out.EncodingMask != ua.ExtensionObjectBinary || out.TypeID.NodeID.Namespace() != 0 {
		return out
	}
	var v any
	switch out.TypeID.NodeID.IntID() {
	case id.AnonymousIdentityToken_Encoding_DefaultBinary:
		v = new(ua.AnonymousIdentityToken)
	case id.UserNameIdentityToken_Encoding_DefaultBinary:
		v = new(ua.UserNameIdentityToken)
	case id.X509IdentityToken_Encoding_DefaultBinary:
		v = new(ua.X509IdentityToken)
	case id.IssuedIdentityToken_Encoding_DefaultBinary:
		v = new(ua.IssuedIdentityToken)
	case id.DataChangeFilter_Encoding_DefaultBinary:
		v = new(ua.DataChangeFilter)
	default:
		return out
	}
	body.elements = d.elements
	body.value(reflect.ValueOf(v).Elem(), depth+1)
	d.elements, d.err = body.elements, body.err
	out.Value = v
	return out
}

// sizes of the scalars of a Variant by their type; 0 where it varies.
func scalarSize(t ua.TypeID) int {
	switch t {
	case ua.TypeIDBoolean, ua.TypeIDSByte, ua.TypeIDByte:
		return 1
	case ua.TypeIDInt16, ua.TypeIDUint16:
		return 2
	case ua.TypeIDInt32, ua.TypeIDUint32, ua.TypeIDFloat, ua.TypeIDStatusCode:
		return 4
	case ua.TypeIDInt64, ua.TypeIDUint64, ua.TypeIDDouble, ua.TypeIDDateTime:
		return 8
	case ua.TypeIDGUID:
		return 16
	}
	return 0
}

// skipVariant passes a value. No request that is served has use for one.
func (d *decoder) skipVariant(depth int) {
	if depth > maxDepth {
		d.fail("values within values")
	}
	mask := d.u8()
	typ := ua.TypeID(mask & 0x3f)
	n := 1
	if typ == ua.TypeIDNull {
		return
	}
	if mask&ua.VariantArrayValues != 0 {
		n = d.array()
	}
	for range n {
		if d.err != nil {
			return
		}
		d.skipScalar(typ, depth)
	}
	if mask&ua.VariantArrayDimensions != 0 {
		d.take(4 * d.array())
	}
}

func (d *decoder) skipScalar(typ ua.TypeID, depth int) {
	if n := scalarSize(typ); n > 0 {
		d.take(n)
		return
	}
	switch typ {
	case ua.TypeIDString, ua.TypeIDByteString, ua.TypeIDXMLElement:
		d.take(d.length())
	case ua.TypeIDNodeID:
		d.skipNodeID(false)
	case ua.TypeIDExpandedNodeID:
		d.skipNodeID(true)
	case ua.TypeIDQualifiedName:
		d.take(2)
		d.take(d.length())
	case ua.TypeIDLocalizedText:
		d.localizedText()
	case ua.TypeIDExtensionObject:
		d.skipNodeID(false)
		if d.u8() != ua.ExtensionObjectEmpty {
			d.take(d.length())
		}
	case ua.TypeIDDataValue:
		d.skipDataValue(depth + 1)
	case ua.TypeIDVariant:
		d.skipVariant(depth + 1)
	default:
		d.fail("a value of an unknown type")
	}
}

func (d *decoder) skipDataValue(depth int) {
	mask := d.u8()
	if mask&ua.DataValueValue != 0 {
		d.skipVariant(depth)
	}
	for _, f := range []struct {
		bit byte
		n   int
	}{{ua.DataValueStatusCode, 4}, {ua.DataValueSourceTimestamp, 8}, {ua.DataValueSourcePicoseconds, 2}, {ua.DataValueServerTimestamp, 8}, {ua.DataValueServerPicoseconds, 2}} {
		if mask&f.bit != 0 {
			d.take(f.n)
		}
	}
}

// value decodes into v, whose pointers it makes.
func (d *decoder) value(v reflect.Value, depth int) {
	if depth > maxDepth {
		d.fail("values within values")
	}
	if d.err != nil {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case **ua.NodeID:
		*p = d.nodeID()
		return
	case **ua.ExpandedNodeID:
		*p = d.expandedNodeID()
		return
	case **ua.LocalizedText:
		*p = d.localizedText()
		return
	case **ua.ExtensionObject:
		*p = d.extensionObject(depth)
		return
	case **ua.DataValue:
		*p = new(ua.DataValue)
		d.skipDataValue(depth)
		return
	case *time.Time:
		*p = d.time()
		return
	case *[]byte:
		*p = d.bytes()
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(d.u8() != 0)
	case reflect.Uint8:
		v.SetUint(uint64(d.u8()))
	case reflect.Uint16:
		v.SetUint(uint64(d.u16()))
	case reflect.Uint32:
		v.SetUint(uint64(d.u32()))
	case reflect.Int32:
		v.SetInt(int64(int32(d.u32())))
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(d.u64()))
	case reflect.String:
		v.SetString(d.str())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem(), depth+1)
	case reflect.Slice:
		n := d.array()
		if n == 0 {
			return
		}
		// Grown as the elements come, since each takes more room than its bytes.
		out := reflect.MakeSlice(v.Type(), 0, min(n, 64))
		for range n {
			if d.err != nil {
				return
			}
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(e, depth+1)
			out = reflect.Append(out, e)
		}
		v.Set(out)
	case reflect.Struct:
		for i := range v.NumField() {
			d.value(v.Field(i), depth+1)
		}
	default:
		d.fail("BUG: no decoding for " + v.Type().String())
	}
}

// decodeInto decodes a structure that request points to.
func (d *decoder) decodeInto(request any) error {
	d.value(reflect.ValueOf(request).Elem(), 0)
	return d.err
}
