package protocols

import (
	"fmt"
	"strconv"

	"millrace/internal/strictjson"
	"millrace/sample"
)

// QualityOfName reads a quality's name as OPC UA writes it, from JSON that a
// device sent.
func QualityOfName(name []byte) (sample.Quality, error) {
	if string(name) == "Good" { // most are
		return sample.Good, nil
	}
	q, err := sample.ParseQuality(string(name))
	if err != nil {
		return 0, fmt.Errorf("%w: write Good, Uncertain, Bad, another name of OPC UA's, or a status code", err)
	}
	return q, nil
}

// QualityOfCode returns the OPC UA status code that a JSON number stands for.
func QualityOfCode(lit []byte) (sample.Quality, error) {
	n, err := strconv.ParseUint(string(lit), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.60s is not an OPC UA status code, 0 to 4294967295", lit)
	}
	return sample.Quality(n), nil
}

// NumberOf turns the literal of a JSON number into an integer where it is one,
// else into a float.
func NumberOf(lit []byte) (sample.Value, error) {
	i, f, isInt, err := strictjson.Num(lit)
	switch {
	case err != nil:
		return sample.Value{}, err
	case isInt:
		return sample.IntValue(i), nil
	}
	return sample.FloatValue(f), nil
}
