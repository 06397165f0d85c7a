package strictyaml

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"millrace/internal/bytesize"
)

// numberAndWord is a quantity as people write it.
var numberAndWord = regexp.MustCompile(`^\s*(\d+(?:[.,]\d+)?)\s*([a-zA-Z]*)\s*$`)

var timeWords = map[string]string{
	"": "s", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
	"ms": "ms", "msec": "ms", "msecs": "ms", "milli": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms",
	"m": "m", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
	"h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
	"d": "d", "day": "d", "days": "d",
}

// likelyTime guesses which time was meant: "did you mean 10s? ", or "".
func likelyTime(text string) string {
	m := numberAndWord.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	number, unit := strings.Replace(m[1], ",", ".", 1), timeWords[strings.ToLower(m[2])]
	if unit == "d" {
		days, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return ""
		}
		number, unit = strconv.FormatFloat(days*24, 'f', -1, 64), "h"
	}
	if _, err := time.ParseDuration(number + unit); unit == "" || err != nil {
		return ""
	}
	return "did you mean " + number + unit + "? "
}

var sizeWords = map[string]string{
	"": "B", "b": "B", "byte": "B", "bytes": "B",
	"k": "KiB", "ki": "KiB", "kib": "KiB", "kb": "kB", "kilobytes": "kB",
	"m": "MiB", "mi": "MiB", "mib": "MiB", "mb": "MB", "meg": "MB", "megs": "MB", "megabytes": "MB",
	"g": "GiB", "gi": "GiB", "gib": "GiB", "gb": "GB", "gig": "GB", "gigs": "GB", "gigabytes": "GB",
	"t": "TiB", "ti": "TiB", "tib": "TiB", "tb": "TB",
}

// likelySize guesses which size was meant: "did you mean 64MB?", or "".
func likelySize(text string) string {
	m := numberAndWord.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	guess := strings.Replace(m[1], ",", ".", 1) + sizeWords[strings.ToLower(m[2])]
	if _, err := bytesize.Parse(guess); err != nil {
		return ""
	}
	return "did you mean " + guess + "?"
}
