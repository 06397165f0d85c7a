package server

import (
	"math"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// What a value that must not be used reads as: null, and one of these. Codes
// that a device or the pipeline gave stay as they are.
const (
	codeWaiting ua.StatusCode = 0x80320000 // BadWaitingForInitialData: nothing has come yet
	codeStale   ua.StatusCode = 0x808D0000 // BadOutOfService: the mirror has marked it as stale
	codeExpired ua.StatusCode = 0x80310000 // BadNoCommunication: its validity is over and nothing newer has come
)

const typeWords = "Boolean, Int32, Int64, Float, Double, String"

// dataTypes returns the number of the data type of a live tag's word; 0 for the
// empty one, by which the values say it.
func dataTypes(word string) (uint32, bool) {
	switch word {
	case "":
		return 0, true
	case "Boolean":
		return uint32(ua.TypeIDBoolean), true
	case "Int32":
		return uint32(ua.TypeIDInt32), true
	case "Int64":
		return uint32(ua.TypeIDInt64), true
	case "Float":
		return uint32(ua.TypeIDFloat), true
	case "Double":
		return uint32(ua.TypeIDDouble), true
	case "String":
		return uint32(ua.TypeIDString), true
	}
	return 0, false
}

// anyType is BaseDataType, which every value is of.
const anyType = 24

// kindType returns the number of the data type that a kind of value is shown as.
func kindType(k sample.Kind) uint32 {
	switch k {
	case sample.Float64:
		return uint32(ua.TypeIDDouble)
	case sample.Int64:
		return uint32(ua.TypeIDInt64)
	case sample.Bool:
		return uint32(ua.TypeIDBoolean)
	case sample.String:
		return uint32(ua.TypeIDString)
	case sample.Null:
	}
	return anyType
}

// convert makes a value of a data type, 0 for the value's own. The second
// result is Good, or why it does not fit.
func convert(v sample.Value, typ uint32) (*ua.Variant, ua.StatusCode) {
	if v.Kind() == sample.Null {
		return nil, ua.StatusOK
	}
	if typ == 0 || typ == anyType {
		typ = kindType(v.Kind())
	}
	f, numeric := v.Number()
	switch t := ua.TypeID(typ); {
	case t == ua.TypeIDString:
		if v.Kind() != sample.String {
			return nil, ua.StatusBadTypeMismatch
		}
		return variant(v.Str()), ua.StatusOK
	case !numeric:
		return nil, ua.StatusBadTypeMismatch
	case t == ua.TypeIDBoolean:
		if v.Kind() != sample.Bool {
			return nil, ua.StatusBadTypeMismatch
		}
		return variant(v.Bool()), ua.StatusOK
	case t == ua.TypeIDDouble:
		return variant(f), ua.StatusOK
	case t == ua.TypeIDFloat:
		if !math.IsInf(f, 0) && math.Abs(f) > math.MaxFloat32 {
			return nil, ua.StatusBadOutOfRange
		}
		return variant(float32(f)), ua.StatusOK
	default:
		n := v.Int()
		if v.Kind() == sample.Bool {
			n = int64(f)
		}
		if v.Kind() == sample.Float64 {
			if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
				return nil, ua.StatusBadOutOfRange
			}
			n = int64(f)
		}
		if t == ua.TypeIDInt64 {
			return variant(n), ua.StatusOK
		}
		if n < math.MinInt32 || n > math.MaxInt32 {
			return nil, ua.StatusBadOutOfRange
		}
		return variant(int32(n)), ua.StatusOK
	}
}

// variant makes one of the types that the server shows.
func variant(v any) *ua.Variant {
	out, err := ua.NewVariant(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return out
}

// shown makes what clients get of a value with its quality. Where the quality is
// Bad, the value is null: a client that looks at no status would go on with it.
func shown(v sample.Value, q sample.Quality, typ uint32, source time.Time) reading {
	if q.IsBad() {
		return reading{status: ua.StatusCode(q), source: source}
	}
	value, code := convert(v, typ)
	if code != ua.StatusOK {
		return reading{status: code, source: source}
	}
	if value == nil {
		return reading{status: codeWaiting, source: source}
	}
	return reading{value: value, status: ua.StatusCode(q), source: source}
}

// liveReading makes what clients get of a live tag.
func liveReading(r protocols.Reading, ok bool, typ uint32) reading {
	if !ok {
		return reading{status: codeWaiting}
	}
	source := r.SourceTime
	if source.IsZero() {
		source = r.Time
	}
	return shown(r.Value, r.Quality, typ, source)
}

// milliseconds is a Duration of OPC UA, OPC 10000-3, 8.13.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// unitCode returns the UNECE code of a unit, OPC 10000-8, 5.6.3; "" where it is
// not a common one.
func unitCode(unit string) string {
	for _, u := range [...][2]string{
		{"W", "WTT"}, {"kW", "KWT"}, {"MW", "MAW"}, {"Wh", "WHR"}, {"kWh", "KWH"}, {"MWh", "MWH"}, {"VA", "D46"}, {"kVA", "KVA"}, {"var", "D44"}, {"kvar", "KVR"},
		{"V", "VLT"}, {"kV", "KVT"}, {"A", "AMP"}, {"mA", "4K"}, {"Hz", "HTZ"}, {"°C", "CEL"}, {"K", "KEL"}, {"%", "P1"}, {"bar", "BAR"}, {"mbar", "MBR"},
		{"Pa", "PAL"}, {"kPa", "KPA"}, {"m³/h", "MQH"}, {"m3/h", "MQH"}, {"m³", "MTQ"}, {"m3", "MTQ"}, {"l", "LTR"}, {"l/min", "L2"}, {"s", "SEC"}, {"min", "MIN"}, {"h", "HUR"},
		{"mm", "MMT"}, {"m", "MTR"}, {"kg", "KGM"}, {"t", "TNE"}, {"rpm", "RPM"},
	} {
		if u[0] == unit {
			return u[1]
		}
	}
	return ""
}

// unitInfo is the EngineeringUnits of a unit. Its number is the UNECE code's
// characters, or -1.
func unitInfo(unit string) *ua.EUInformation {
	info := &ua.EUInformation{UnitID: -1, DisplayName: ua.NewLocalizedText(unit), Description: ua.NewLocalizedText("")}
	if code := unitCode(unit); code != "" {
		info.NamespaceURI = "http://www.opcfoundation.org/UA/units/un/cefact"
		info.UnitID = 0
		for _, c := range []byte(code) {
			info.UnitID = info.UnitID<<8 | int32(c)
		}
	}
	return info
}
