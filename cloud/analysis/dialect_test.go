package analysis

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"millrace/cloud/analysis/result"
)

// common lists what may stand before a parenthesis in a text: the functions that
// DuckDB and Spark both have, with the same meaning, and words of the language.
var common = strings.Fields(`
	abs avg cast coalesce count extract floor greatest instr lag lead least max max_by median min min_by nullif
	percentile_cont row_number split_part stddev_samp sum
	and as by filter from group in join not on or over select then union when where`)

// foreign lists what only one engine takes, or what the two take differently.
var foreign = map[string]string{
	`::`:                                    "a cast of DuckDB: write CAST(x AS type)",
	`//`:                                    "integer division of DuckDB: Spark has div",
	`(?i)\bdiv\b`:                           "integer division of Spark: DuckDB has //",
	`(?i)\bqualify\b`:                       "Spark has no QUALIFY",
	`(?i)\binterval\b`:                      "intervals of the two differ: count in nanoseconds",
	`(?i)\bexclude\b`:                       "Spark has no EXCLUDE",
	`(?i)\bilike\b`:                         "matches differently",
	`(?i)\bconcat\b`:                        "a null makes the whole null in Spark and nothing in DuckDB: write ||",
	`\[|\]`:                                 "lists of the two differ",
	"`|\"":                                  "quoting of the two differs",
	`[$][{]`:                                "there is nothing to substitute: parameters are the views hours and period",
	`(?i)\bgroup by all\b|\border by all\b`: "name the columns",
	`(?i)\bnow\b|\bcurrent_\w+\b|\brandom\b|\brand\b`: "a text gives the same each time",
	`(?i)\btimestamp\b|\bdate\b`:                      "times are the views' own, or nanoseconds",
}

// comments are taken out, and strings.
var (
	comment = regexp.MustCompile(`--[^\n]*`)
	literal = regexp.MustCompile(`'[^']*'`)
	call    = regexp.MustCompile(`(?i)\b([a-z_][a-z0-9_]*)\s*\(`)
	within  = regexp.MustCompile(`(?i)WITHIN GROUP \(`)
	decimal = regexp.MustCompile(`\b[0-9]+\.[0-9]+\b`)
)

// faults are what a text has that the two engines do not share.
func faults(text string) []string {
	var out []string
	text = literal.ReplaceAllString(comment.ReplaceAllString(text, ""), "''")
	for pattern, why := range foreign {
		if found := regexp.MustCompile(pattern).FindString(text); found != "" {
			out = append(out, fmt.Sprintf("%s: %s", found, why))
		}
	}
	// WITHIN GROUP is of percentile_cont, whose fraction may be a decimal.
	for _, m := range call.FindAllStringSubmatch(within.ReplaceAllString(text, ""), -1) {
		if !slices.Contains(common, strings.ToLower(m[1])) {
			out = append(out, m[1]+"( is not among what both engines have")
		}
	}
	for _, d := range decimal.FindAllString(strings.ReplaceAll(text, "percentile_cont(0.95)", ""), -1) {
		out = append(out, d+" is a decimal, which the two round differently: write it with an exponent")
	}
	return out
}

func TestOneDialect(t *testing.T) {
	for _, r := range result.All() {
		text, err := Text(r.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range faults(text) {
			t.Errorf("%s.sql: %s", r.Name, f)
		}
	}
}

// The check finds what it is there for.
func TestTheDialectBites(t *testing.T) {
	for _, text := range []string{
		"SELECT epoch_us(time)", "SELECT unix_micros(time)", "SELECT ns // 60", "SELECT ns DIV 60", "SELECT a::DOUBLE", "SELECT concat(a, b)",
		"SELECT list[1]", "SELECT now()", "SELECT x * 0.5", "SELECT x FROM y QUALIFY z = 1", "SELECT hour + INTERVAL 1 HOUR", "SELECT quantile_cont(x, 0.5)",
		"SELECT approx_percentile(x, 1)", "SELECT arg_max(a, b)", `SELECT "first"`, "SELECT `first`", "SELECT ${from}",
	} {
		if len(faults(text)) == 0 {
			t.Errorf("%s passes", text)
		}
	}
	if f := faults("-- now(): 0.5\nSELECT count(*), 1.5e0, 'x // y' FROM a"); len(f) > 0 {
		t.Errorf("%v", f)
	}
}
