package mirror

import (
	"encoding/json"
	"testing"

	"millrace/sample"
)

func TestValuesInJSON(t *testing.T) {
	for _, v := range []sample.Value{
		{}, sample.FloatValue(41.5), sample.IntValue(1<<63 - 1), sample.BoolValue(true), sample.BoolValue(false), sample.StringValue(`"a"`),
	} {
		text, err := json.Marshal(Value{v})
		var back Value
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || back.Value != v {
			t.Errorf("%s: %s is read as %s, %v", v, text, back.Value, err)
		}
	}
	var v Value
	for _, text := range []string{`{}`, `[1]`} {
		if err := json.Unmarshal([]byte(text), &v); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}
