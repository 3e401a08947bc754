// Command go-mlx runs MLX language models: it classifies, generates, embeds, trains and serves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cmd, err := rootCommand().ExecuteContextC(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "go-mlx: interrupted")
		os.Exit(exitInterrupted)
	default:
		fmt.Fprintln(os.Stderr, "go-mlx:", printable(err.Error()))
		if isUsage(err) {
			fmt.Fprintf(os.Stderr, "\"%s --help\" says how it is used.\n", cmd.CommandPath())
			os.Exit(exitUsage)
		}
		os.Exit(exitFailure)
	}
}

// printable is a message without what would steer the terminal: names in it may come from a file that somebody made.
func printable(text string) string {
	var out strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd"):
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case r == '\n' || r == '\t' || !unicode.IsControl(r):
			out.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return out.String()
}

// usageError is a mistake on the command line that the command itself finds; cobra finds the others.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// workError is an error of a command that had begun.
type workError struct{ error }

func (e workError) Unwrap() error { return e.error }

// working marks what a command returns; what cobra finds wrong before it begins stays unmarked.
func working(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return workError{bySettings(cmd.Flags(), byFlags(cmd.Flags(), err))}
		}
		return nil
	}
}

// isUsage reports whether the command line is to blame.
func isUsage(err error) bool {
	var work workError
	var usage usageError
	return !errors.As(err, &work) || errors.As(err, &usage)
}

// printJSON prints a value for people and programs.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// version is set by the linker in released programs.
var version string

// programVersion is what the linker set, or what the go command knows of the module.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// parseError is what package strconv says in front of what is wrong with a flag's value; it means nothing to who types commands.
var parseError = regexp.MustCompile(`strconv\.\w+: parsing "[^"]*": `)

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "go-mlx",
		Version: programVersion(),
		Short:   "Run MLX language models: classify, generate, embed and serve",
		Long: wrapped(`Run MLX language models: classify, generate, embed and serve.

"go-mlx doctor" says what works here. Flags can also come from environment variables (GO_MLX_MAX_TOKENS is --max-tokens) and from a file:
"go-mlx help configuration". "go-mlx completion SHELL" prints a completion script.

Exit codes: 0 success, 1 failure, 2 a mistake on the command line, 130 interrupted.`),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(chatCommand(), classifierCommand(), classifyCommand(), pullCommand(), listCommand(), rmCommand(), embedCommand(), generateCommand(), infoCommand(), parityCommand(), probeCommand(), selftestCommand(), serveCommand(), trainCommand(), convertCommand(), doctorCommand(), manCommand())
	var config string
	root.PersistentFlags().StringVar(&config, "config", "", "configuration file (default: go-mlx/config.toml in the XDG folders)")
	for _, cmd := range below(root) {
		cmd.RunE, cmd.Long = working(cmd.RunE), wrapped(cmd.Long)
		withSettings(root, cmd, &config)
	}
	root.AddCommand(settingsTopic())
	wrapFlags(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if text := parseError.ReplaceAllString(err.Error(), ""); text != err.Error() {
			return errors.New(text)
		}
		return err
	})
	return root
}

// checkOutput refuses a file that could not be written, before the work that it would be the result of. One that is replaced is written beside the
// old one, as a new one is; any other is written into. The flag is for the message.
func checkOutput(flag, path string, replaced bool) error {
	info, err := os.Stat(path)
	switch {
	case path == "":
		err = errors.New("it is empty: name a file")
	case err == nil && info.IsDir():
		err = fmt.Errorf("%s is a folder: name a file", path)
	case errors.Is(err, os.ErrNotExist) || err == nil && replaced:
		var file *os.File
		if file, err = os.CreateTemp(filepath.Dir(path), ".go-mlx-*"); err == nil {
			err = errors.Join(file.Close(), os.Remove(file.Name()))
		} else {
			err = fmt.Errorf("%s: no file can be made in this folder: %w", path, errors.Unwrap(err))
		}
	case err == nil && info.Mode().IsRegular():
		var file *os.File
		if file, err = os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return nil
}

// checkOutputs is checkOutput for flags that may be left out.
func checkOutputs(paths map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(paths)) {
		if paths[flag] == "" {
			continue
		}
		if err := checkOutput(flag, paths[flag], false); err != nil {
			return err
		}
	}
	return nil
}

// writeFile makes a file of what write writes.
func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
