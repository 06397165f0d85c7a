package mirror

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"millrace/sample"
)

// UnmarshalJSON implements json.Unmarshaler. A number without a point is an
// int64, so that a tool that prints a status shows what the gateway said.
func (v *Value) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var is any
	if err := d.Decode(&is); err != nil {
		return err
	}
	switch is := is.(type) {
	case nil:
		v.Value = sample.Value{}
	case bool:
		v.Value = sample.BoolValue(is)
	case string:
		v.Value = sample.StringValue(is)
	case json.Number:
		if i, err := strconv.ParseInt(is.String(), 10, 64); err == nil {
			v.Value = sample.IntValue(i)
			return nil
		}
		f, err := is.Float64()
		if err != nil {
			return err
		}
		v.Value = sample.FloatValue(f)
	default:
		return fmt.Errorf("%.40s is no value of a target", text)
	}
	return nil
}
