package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// invoke runs a program that has one command, which takes names, and returns
// the exit code and what was printed.
func invoke(t *testing.T, names []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := &Program{Name: "mill", About: "mill grinds.", Codes: "0 done, 1 failed", Commands: []Command{
		{
			Name: "grind", Summary: "grind corn", Usage: "[--fine] CORN", Help: "\nGrinds.\n\nExamples:\n  mill grind rye\n",
			Run: func(_ context.Context, c *Call) error {
				fine := c.Flags.Bool("fine", false, "grind it `twice`")
				got, err := c.ParseArgs(names...)
				if err != nil {
					return err
				}
				switch {
				case len(got) > 0 && got[0] == "sand":
					return errors.New("it breaks the stone")
				case len(got) > 0 && got[0] == "config":
					return fmt.Errorf("all wrong: %w", Coded(ExitConfig, errors.New("mill.yaml:3: no such corn")))
				}
				fmt.Fprintf(c.Stdout, "%t %q", *fine, got)
				return nil
			},
		},
		{Name: "windwardness", Summary: "turn to the wind"},
		Version("mill", "v1"),
	}}
	var out, errs bytes.Buffer
	code = p.Run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// TestProgram holds each answer word by word.
func TestProgram(t *testing.T) {
	overview := "mill grinds.\n\nUsage: mill COMMAND [flags]\n\n" +
		"  grind        grind corn\n  windwardness turn to the wind\n  version      print the version\n\n" +
		"`mill help COMMAND` shows a command's flags and examples.\nExit codes: 0 done, 1 failed.\n"
	grind := "Usage: mill grind [--fine] CORN\n\nGrinds.\n\nExamples:\n  mill grind rye\n\nFlags:\n  -fine twice\n    \tgrind it twice\n"
	unknown := "mill: there is no command \"fly\"; `mill help` lists them\n"
	for name, c := range map[string]struct {
		args           string
		code           int
		stdout, stderr string
	}{
		"nothing":         {"", ExitUsage, "", overview},
		"help":            {"help", ExitOK, overview, ""},
		"-h":              {"-h", ExitOK, overview, ""},
		"--help":          {"--help", ExitOK, overview, ""},
		"help of one":     {"help grind", ExitOK, grind, ""},
		"-h of one":       {"grind -h", ExitOK, grind, ""},
		"help later":      {"grind rye --help", ExitOK, grind, ""},
		"help of unknown": {"help fly", ExitUsage, "", unknown},
		"unknown":         {"fly --fine", ExitUsage, "", unknown},
		"unknown flag":    {"grind rye --coarse", ExitUsage, "", "mill grind: flag provided but not defined: -coarse; see `mill help grind`\n"},
		"failed":          {"grind sand", ExitFailed, "", "mill grind: it breaks the stone\n"},
		"configuration":   {"grind config", ExitConfig, "", "all wrong: mill.yaml:3: no such corn\n"},
		"well":            {"grind rye", ExitOK, `false ["rye"]`, ""},
	} {
		code, stdout, stderr := invoke(t, []string{"CORN"}, strings.Fields(c.args)...)
		if code != c.code || stdout != c.stdout || stderr != c.stderr {
			t.Errorf("%s: code %d\n%s%s", name, code, stdout, stderr)
		}
	}
	if code, stdout, _ := invoke(t, nil, "version"); code != ExitOK || !strings.HasPrefix(stdout, "mill v1") || !strings.Contains(stdout, " go1") {
		t.Errorf("version: code %d, %s", code, stdout)
	}
	if code, _, stderr := invoke(t, nil, "version", "now"); code != ExitUsage || !strings.Contains(stderr, `"now" is no flag, and version takes no arguments`) {
		t.Errorf("version now: code %d, %s", code, stderr)
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct{ names, args, want string }{
		{"", "", `false []`},
		{"", "--fine", `true []`},
		{"", "rye", `"rye" is no flag, and grind takes no arguments`},
		{"CORN", "", `CORN is missing`},
		{"CORN", "--fine", `CORN is missing`},
		{"CORN", "rye --fine", `true ["rye"]`},
		{"CORN", "--fine rye", `true ["rye"]`},
		{"CORN", "rye oat", `"oat" is too many: grind takes CORN`},
		{"CORN", "-- --fine", `false ["--fine"]`},
		{"CORN [SACK]", "rye", `false ["rye" ""]`},
		{"CORN [SACK]", "rye --fine s1", `true ["rye" "s1"]`},
		{"CORN [SACK]", "rye s1 s2", `"s2" is too many: grind takes CORN [SACK]`},
		{"CORN SACK...", "rye", `SACK is missing`},
		{"CORN SACK...", "rye s1 --fine s2", `true ["rye" "s1" "s2"]`},
		{"CORN [SACK...]", "rye", `false ["rye"]`},
		{"[SACK...]", "", `false []`},
		{"[SACK...]", "s1 -- --fine -- s2", `false ["s1" "--fine" "--" "s2"]`},
	} {
		code, stdout, stderr := invoke(t, strings.Fields(c.names), append([]string{"grind"}, strings.Fields(c.args)...)...)
		if got := stdout + stderr; !strings.Contains(got, c.want) || (code == ExitUsage) != (stderr != "") {
			t.Errorf("%q takes %q: code %d, %s; want %s", c.names, c.args, code, got, c.want)
		}
	}
}

func TestCodedNothingIsNothing(t *testing.T) {
	if err := Coded(ExitConfig, nil); err != nil {
		t.Error(err)
	}
	cause := errors.New("cause")
	if err := Usagef("--week: %w", cause); !errors.Is(err, cause) {
		t.Error("the cause is not in the error")
	}
}
