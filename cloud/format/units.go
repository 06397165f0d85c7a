package format

import (
	"math"
	"strconv"
	"strings"
)

// senmlUnit is a unit of the IANA registry "SenML Units" and what a value is
// multiplied by to be in it: scale, or a power of ten where scale is 0.
type senmlUnit struct {
	name  string
	scale float64
	ten   int
}

// convert brings a value into the unit. A power of ten moves the decimal point
// of the shortest decimal form, so that 0.07 by 100 is 7.
func (u senmlUnit) convert(f float64) float64 {
	switch {
	case u.name == "" || u.scale == 1:
		return f
	case u.scale != 0:
		return f * u.scale
	}
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	n, err := strconv.Atoi(exponent)
	if err != nil {
		return f // BUG cannot be: FormatFloat wrote it, and f is finite
	}
	moved, err := strconv.ParseFloat(digits+"e"+strconv.Itoa(n+u.ten), 64)
	if err != nil || math.IsInf(moved, 0) {
		return f * math.Pow10(u.ten)
	}
	return moved
}

// senmlUnits maps the units of a plant to those of the registry (RFC 8428, 12.1;
// RFC 8798, 2 and 3). What the registry has as a secondary unit is converted,
// since a pack without a version of its own must not use those (RFC 9100).
var senmlUnits = map[string]senmlUnit{
	"m": one("m"), "kg": one("kg"), "s": one("s"), "A": one("A"), "K": one("K"), "Hz": one("Hz"), "rad": one("rad"), "N": one("N"),
	"Pa": one("Pa"), "J": one("J"), "W": one("W"), "C": one("C"), "V": one("V"), "F": one("F"), "Ohm": one("Ohm"), "ohm": one("Ohm"), "Ω": one("Ohm"), "\u2126": one("Ohm"),
	"S": one("S"), "T": one("T"), "H": one("H"), "Cel": one("Cel"), "°C": one("Cel"), "degC": one("Cel"), "℃": one("Cel"),
	"lm": one("lm"), "lx": one("lx"), "m2": one("m2"), "m²": one("m2"), "m3": one("m3"), "m³": one("m3"), "m/s": one("m/s"), "m/s2": one("m/s2"), "m/s²": one("m/s2"),
	"m3/s": one("m3/s"), "m³/s": one("m3/s"), "W/m2": one("W/m2"), "W/m²": one("W/m2"), "S/m": one("S/m"), "pH": one("pH"), "dB": one("dB"),
	"bit": one("bit"), "B": one("B"), "%RH": one("%RH"), "1/s": one("1/s"), "count": one("count"), "deg": one("deg"), "°": one("deg"),
	"VA": one("VA"), "var": one("var"), "VAs": one("VAs"), "vars": one("vars"), "kg/m3": one("kg/m3"), "kg/m³": one("kg/m3"), "NTU": one("NTU"), "1": one("/"),

	"ms": ten("s", -3), "us": ten("s", -6), "µs": ten("s", -6), "min": by("s", 60), "h": by("s", 3600), "d": by("s", 86400),
	"g": ten("kg", -3), "t": ten("kg", 3), "mm": ten("m", -3), "cm": ten("m", -2), "km": ten("m", 3), "l": ten("m3", -3), "L": ten("m3", -3), "l/s": ten("m3/s", -3),
	"kHz": ten("Hz", 3), "MHz": ten("Hz", 6), "mV": ten("V", -3), "kV": ten("V", 3), "mA": ten("A", -3), "kA": ten("A", 3),
	"kW": ten("W", 3), "MW": ten("W", 6), "kVA": ten("VA", 3), "MVA": ten("VA", 6), "kvar": ten("var", 3), "Mvar": ten("var", 6), "kN": ten("N", 3), "kJ": ten("J", 3), "MJ": ten("J", 6), "GJ": ten("J", 9),
	"Wh": by("J", 3600), "kWh": by("J", 3.6e6), "MWh": by("J", 3.6e9), "varh": by("vars", 3600), "kvarh": by("vars", 3.6e6), "kVAh": by("VAs", 3.6e6), "Ah": by("C", 3600),
	"hPa": ten("Pa", 2), "kPa": ten("Pa", 3), "MPa": ten("Pa", 6), "mbar": ten("Pa", 2), "bar": ten("Pa", 5),
	"%": ten("/", -2), "ppm": ten("/", -6), "km/h": by("m/s", 1/3.6), "m3/h": by("m3/s", 1.0/3600), "m³/h": by("m3/s", 1.0/3600), "l/min": by("m3/s", 1.0/60000),
	"rpm": by("1/s", 1.0/60), "1/min": by("1/s", 1.0/60), "uS/cm": ten("S/m", -4), "µS/cm": ten("S/m", -4), "mS/cm": ten("S/m", -1), "mg/l": ten("kg/m3", -3), "mg/L": ten("kg/m3", -3),
}

func one(name string) senmlUnit               { return senmlUnit{name: name, scale: 1} }
func ten(name string, power int) senmlUnit    { return senmlUnit{name: name, ten: power} }
func by(name string, scale float64) senmlUnit { return senmlUnit{name: name, scale: scale} }
