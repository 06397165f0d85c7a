package sample

import "fmt"

// Quality is an OPC UA status code: the two top bits are the severity (00
// Good, 01 Uncertain, 10 Bad), the rest is the reason. OPC 10000-4, 7.39 and
// OPC 10000-6, annex A.2 (the code table).
type Quality uint32

// The codes that millrace itself sets. A device may give any other.
const (
	Good                      Quality = 0x00000000
	Uncertain                 Quality = 0x40000000
	UncertainLastUsableValue  Quality = 0x40900000
	UncertainEngineeringUnits Quality = 0x40940000 // value outside the configured range
	Bad                       Quality = 0x80000000
	BadInternalError          Quality = 0x80020000
	BadCommunicationError     Quality = 0x80050000
	BadTimeout                Quality = 0x800A0000
	BadNodeIDUnknown          Quality = 0x80340000
	BadOutOfRange             Quality = 0x803C0000 // not a number, or beyond what the type holds
	BadTypeMismatch           Quality = 0x80740000
	BadConfigurationError     Quality = 0x80890000
	BadNotConnected           Quality = 0x808A0000
	BadDeviceFailure          Quality = 0x808B0000
	BadNoCommunication        Quality = 0x80310000
	BadDataLost               Quality = 0x809D0000
	severityMask              Quality = 0xC0000000
	infoTypeMask              Quality = 0x00000C00
	infoTypeDataValue         Quality = 0x00000400
	infoOverflow              Quality = 0x00000080
	infoBits                  Quality = 0x0000FFFF
)

// IsGood reports whether the severity is Good.
func (q Quality) IsGood() bool { return q&severityMask == Good }

// IsUncertain reports whether the severity is Uncertain.
func (q Quality) IsUncertain() bool { return q&severityMask == Uncertain }

// IsBad reports whether the severity is Bad (or the reserved fourth one).
func (q Quality) IsBad() bool { return q&Bad != 0 }

// Overflow reports whether the code says that the server dropped values before
// this one since its queue was full: InfoType DataValue with the bit Overflow.
// OPC 10000-4, 7.39.1.
func (q Quality) Overflow() bool { return q&infoTypeMask == infoTypeDataValue && q&infoOverflow != 0 }

// String returns the code's OPC UA name where millrace knows it, else the
// severity and the number: "Bad(0x80550000)".
func (q Quality) String() string {
	if n, ok := qualityNames[q]; ok {
		return n
	}
	switch {
	case q.IsGood():
		return fmt.Sprintf("Good(0x%08X)", uint32(q))
	case q.IsUncertain():
		return fmt.Sprintf("Uncertain(0x%08X)", uint32(q))
	}
	return fmt.Sprintf("Bad(0x%08X)", uint32(q))
}

var qualityNames = map[Quality]string{
	Good:                      "Good",
	Uncertain:                 "Uncertain",
	UncertainLastUsableValue:  "UncertainLastUsableValue",
	UncertainEngineeringUnits: "UncertainEngineeringUnitsExceeded",
	Bad:                       "Bad",
	BadInternalError:          "BadInternalError",
	BadCommunicationError:     "BadCommunicationError",
	BadTimeout:                "BadTimeout",
	BadNodeIDUnknown:          "BadNodeIdUnknown",
	BadOutOfRange:             "BadOutOfRange",
	BadTypeMismatch:           "BadTypeMismatch",
	BadConfigurationError:     "BadConfigurationError",
	BadNotConnected:           "BadNotConnected",
	BadDeviceFailure:          "BadDeviceFailure",
	BadNoCommunication:        "BadNoCommunication",
	BadDataLost:               "BadDataLost",
}

// Doubt returns the quality of a value that has come into doubt for the reason
// why: a Good one takes that, while one that is Uncertain or Bad already keeps
// its own reason, which says more. Of a Good one's info bits (OPC 10000-4,
// 7.39.1) those stay.
func (q Quality) Doubt(why Quality) Quality {
	if !q.IsGood() {
		return q
	}
	return why | q&infoBits
}
