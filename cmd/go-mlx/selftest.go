package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"forge.lthn.ai/core/go-mlx/internal/selftest"
)

type selftestRun struct {
	model, python, html string
	only                []string
	json, quiet         bool
}

func selftestCommand() *cobra.Command {
	run := &selftestRun{}
	cmd := &cobra.Command{
		Use:   "selftest [MODEL]",
		Short: "Test both engines on this machine, and print a report",
		Long: `Test both engines on this machine: whether they compute the same (parity), give memory back (memory), come through faults such as a
killed worker (faults), and how fast they are (benchmark). The model is a small one that is part of this program; name one of your own to
test that instead. What cannot run here, such as the python engine without mlx-lm, is listed as not run. It takes about a minute.

The exit code is 0 if something was tested and nothing failed, 1 otherwise, and 130 after Ctrl-C, with a report of what had run until then.`,
		Example: `  go-mlx selftest > report.txt
  go-mlx selftest --html report.html --only parity,memory`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if run.model != "" {
					return usageError{fmt.Errorf("unknown argument %q after the model", args[0])}
				}
				run.model = args[0]
			}
			for _, group := range run.only {
				if !slices.Contains(selftest.Groups, group) {
					return usageError{fmt.Errorf("--only: there is no group %q; there are %s", group, strings.Join(selftest.Groups, ", "))}
				}
			}
			return run.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&run.model, "model", "m", "", "model of your own: a folder, a .gguf file or a name ORG/NAME; or the first argument")
	flags.StringVar(&run.python, "python", "", "Python interpreter with mlx-lm")
	flags.StringSliceVar(&run.only, "only", nil, "groups to run: "+strings.Join(selftest.Groups, ", "))
	flags.BoolVar(&run.json, "json", false, "print the report as JSON")
	flags.StringVar(&run.html, "html", "", "also write the report as a page to this file")
	flags.BoolVarP(&run.quiet, "quiet", "q", false, "say nothing on stderr but errors")
	return cmd
}

// errSelftest is the error of a test that did not pass; the report says why.
var errSelftest = errors.New("selftest failed")

func (r *selftestRun) run(cmd *cobra.Command) error {
	if err := checkOutputs(map[string]string{"html": r.html}); err != nil {
		return err
	}
	ctx := cmd.Context()
	o := selftest.Options{Version: cmd.Root().Version, Model: r.model, Python: r.python, Groups: r.only}
	for _, f := range append(examineSystem(ctx), examine(ctx, o.Version, r.python)[:4]...) {
		o.System = append(o.System, selftest.Fact{Name: f.Part, Detail: withoutHome(f.Detail)})
	}
	if !r.quiet {
		o.Progress = func(c selftest.Check) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%-7s  %s: %s\n", c.State, c.Group, c.Name)
		}
	}
	report, err := selftest.Run(ctx, o)
	if err != nil {
		return err
	}
	for i := range report.Checks {
		report.Checks[i].Detail = withoutHome(report.Checks[i].Detail)
	}
	if r.html != "" {
		if err := writeFile(r.html, report.WriteHTML); err != nil {
			return err
		}
	}
	if r.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = report.WriteText(cmd.OutOrStdout())
	}
	switch {
	case err != nil:
		return err
	case report.Interrupted:
		return context.Canceled
	case !report.Passed():
		return fmt.Errorf("%w: %s", errSelftest, report.Verdict())
	}
	return nil
}

// withoutHome keeps the user's name out of a report that others will read.
func withoutHome(text string) string {
	home, err := os.UserHomeDir()
	if err != nil || len(filepath.Clean(home)) < 2 {
		return text
	}
	return strings.ReplaceAll(text, filepath.Clean(home), "~")
}
