package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/adrg/xdg"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"forge.lthn.ai/core/go-mlx/bridge"
)

// Flags that the command line does not give are taken from the environment, then from the configuration file. All commands do it
// in the same way, here, before they begin.

const (
	variablePrefix = "GO_MLX_"
	configVariable = variablePrefix + "CONFIG"
	configName     = "go-mlx/config.toml"
)

const settingsHelp = `Every flag of every command may also be given by an environment variable or in a configuration file. The first
of these that is set counts:

  1. the flag on the command line
  2. the environment variable: GO_MLX_ and the flag in capitals, with _ for -
     (GO_MLX_MAX_TOKENS=100 is --max-tokens 100)
  3. the command's own table in the configuration file
  4. the top of the configuration file
  5. the flag's default

The file is the one that --config or GO_MLX_CONFIG names, or else go-mlx/config.toml in the XDG folders (XDG_CONFIG_HOME, by default
~/.config; then XDG_CONFIG_DIRS). It is TOML:

  threads = 8                      # for all commands that have the flag

  [generate]                       # for this one
  temperature = 0.7

  [classifier.train]               # for a command of a command
  layer = [8]

  [serve]
  model = ["small=/models/qwen3", "big=/models/llama,engine=python"]
  ttl = "10m"

A key that is no flag is an error. A flag that may be given again takes a list, and in the environment one value a line. A model that
is set here stands for --model: arguments are what follows the model. A model that is given as an argument comes first.

GO_MLX_PYTHON, and python in the file, say where the interpreter of the workers is and choose no engine. serve also reads API keys
from GO_MLX_API_KEYS, separated by commas.
`

func settingsTopic() *cobra.Command {
	return &cobra.Command{Use: "configuration", Short: "Flags from the environment and from a file", Long: wrapped(settingsHelp)}
}

// settingSource is the annotation of flags that were not set on the command line: it says where.
const settingSource = "go-mlx set by"

// bySettings says of the flags that an error is about where they were set, if that was not on the command line, which the user sees.
func bySettings(flags *pflag.FlagSet, err error) error {
	text := err.Error()
	var notes []string
	flags.VisitAll(func(flag *pflag.Flag) {
		where := flag.Annotations[settingSource]
		if len(where) == 0 {
			return
		}
		value := flag.Value.String()
		// An error about a file or a folder names it, and not the flag.
		isPath := flag.Value.Type() == "string" && strings.ContainsRune(value, filepath.Separator) && strings.Contains(text, value)
		if _, after, found := strings.Cut(text, "--"+flag.Name); isPath || found && !strings.HasPrefix(after, "-") && !isWordStart(after) {
			notes = append(notes, fmt.Sprintf("--%s is set by %s", flag.Name, where[0]))
		}
	})
	if len(notes) == 0 {
		return err
	}
	return &flagError{text: fmt.Sprintf("%s (%s)", text, strings.Join(notes, "; ")), err: err}
}

// isWordStart is true where a flag's name would go on.
func isWordStart(text string) bool {
	return text != "" && (text[0] >= 'a' && text[0] <= 'z' || text[0] >= '0' && text[0] <= '9')
}

// afterModel is the annotation of commands that take an argument after the model.
const afterModel = "after model"

// onlyTyped are flags that a configuration file cannot set.
var onlyTyped = []string{"config", "help"}

// settings holds a configuration file.
type settings struct {
	path   string
	values map[string]any
}

// readSettings reads the file that is named, or the user's one if there is one. root tells which keys there may be.
func readSettings(root *cobra.Command, path string) (settings, error) {
	if path == "" {
		path = os.Getenv(configVariable)
	}
	if path == "" {
		xdg.Reload() // it looked at the environment when the program began
		found, err := xdg.SearchConfigFile(configName)
		if err != nil {
			return settings{}, nil // the error says only that there is none
		}
		path = found
	}
	text, err := readTextFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return settings{}, fmt.Errorf("there is no configuration file %s", path)
		}
		return settings{}, err
	}
	s := settings{path: path}
	if err := toml.Unmarshal([]byte(text), &s.values); err != nil {
		var where *toml.DecodeError
		if errors.As(err, &where) {
			row, column := where.Position()
			return s, fmt.Errorf("%s, line %d, column %d: %w", path, row, column, err)
		}
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, s.check(root)
}

// check finds keys that nothing reads: they are typing mistakes.
func (s settings) check(root *cobra.Command) error {
	known := map[string]bool{}
	for _, cmd := range below(root) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	for _, key := range slices.Sorted(maps.Keys(s.values)) {
		table, isTable := s.values[key].(map[string]any)
		if !isTable {
			if slices.Contains(onlyTyped, key) {
				return fmt.Errorf("%s: %s is only for the command line", s.path, key)
			}
			if !known[key] {
				return fmt.Errorf("%s: no command has a flag --%s", s.path, key)
			}
			continue
		}
		cmd := child(root, key)
		if cmd == nil {
			return fmt.Errorf("%s: there is no command %s", s.path, key)
		}
		if err := s.checkTable(cmd, table); err != nil {
			return err
		}
	}
	return nil
}

// checkTable is check for the table of a command, which holds the tables of its subcommands.
func (s settings) checkTable(cmd *cobra.Command, table map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if inner, isTable := table[name].(map[string]any); isTable {
			if sub := child(cmd, name); sub != nil {
				if err := s.checkTable(sub, inner); err != nil {
					return err
				}
				continue
			}
		}
		if slices.Contains(onlyTyped, name) {
			return fmt.Errorf("%s: %s is only for the command line", s.path, name)
		}
		if cmd.Flags().Lookup(name) == nil {
			return fmt.Errorf("%s: %s has no flag --%s", s.path, tableName(cmd), name)
		}
	}
	return nil
}

// below are all commands of a command, and theirs.
func below(cmd *cobra.Command) (all []*cobra.Command) {
	for _, sub := range cmd.Commands() {
		all = append(append(all, sub), below(sub)...)
	}
	return all
}

// child is the command of a command that has a name; nil if there is none.
func child(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name {
			return sub
		}
	}
	return nil
}

// tableName is what a command's table is called in the file: "classify", or "classifier.train" for a command of a command.
func tableName(cmd *cobra.Command) string {
	if parent := cmd.Parent(); parent.HasParent() {
		return tableName(parent) + "." + cmd.Name()
	}
	return cmd.Name()
}

// table is what the file sets for a command alone; nil if nothing.
func (s settings) table(cmd *cobra.Command) map[string]any {
	values := s.values
	if parent := cmd.Parent(); parent.HasParent() {
		values = s.table(parent)
	}
	table, _ := values[cmd.Name()].(map[string]any)
	return table
}

// find is what a flag of a command is set to outside the command line, and where.
func (s settings) find(cmd *cobra.Command, flag *pflag.Flag) (values []string, where string, err error) {
	variable := variablePrefix + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
	if text, ok := os.LookupEnv(variable); ok && text != "" {
		if isList(flag) {
			return strings.Split(strings.Trim(text, "\n"), "\n"), variable, nil
		}
		return []string{text}, variable, nil
	}
	value, ok := s.table(cmd)[flag.Name]
	where = fmt.Sprintf("%s in [%s] of %s", flag.Name, tableName(cmd), s.path)
	if !ok {
		value, ok = s.values[flag.Name]
		if _, isTable := value.(map[string]any); isTable {
			ok = false // of a command that has the flag's name, as chat
		}
		where = fmt.Sprintf("%s in %s", flag.Name, s.path)
	}
	if !ok {
		return nil, "", nil
	}
	many, isArray := value.([]any)
	if !isArray {
		many = []any{value}
	} else if !isList(flag) {
		return nil, where, fmt.Errorf("%s: it takes one value, and this is a list", where)
	}
	values = []string{} // an empty list sets a flag too
	for _, v := range many {
		switch v.(type) {
		case string, bool, int64, float64:
			values = append(values, fmt.Sprint(v))
		default:
			return nil, where, fmt.Errorf("%s: a flag is a text, a number, a boolean or a list of texts", where)
		}
	}
	return values, where, nil
}

func isList(flag *pflag.Flag) bool {
	_, ok := flag.Value.(pflag.SliceValue)
	return ok
}

// apply sets the flags of a command that its command line leaves open.
func (s settings) apply(cmd *cobra.Command, args []string) error {
	var errs []error
	given := map[string]bool{}
	cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = true })
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		if given[flag.Name] || slices.Contains(onlyTyped, flag.Name) || excluded(flag, given) {
			return
		}
		values, where, err := s.find(cmd, flag)
		if err != nil {
			errs = append(errs, err)
		}
		if values == nil || err != nil {
			return
		}
		if flag.Name == "python" {
			// The flag chooses the python engine too; these only say where it is.
			if os.Getenv(bridge.PythonVariable) == "" && len(values) == 1 {
				errs = append(errs, os.Setenv(bridge.PythonVariable, values[0]))
			}
			return
		}
		if flag.Name == "model" && len(args) > argumentsAfterModel(cmd) {
			return // the arguments name one
		}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			err = list.Replace(values)
			flag.Changed = true
		} else {
			err = cmd.Flags().Set(flag.Name, values[0])
		}
		if err == nil {
			err = cmd.Flags().SetAnnotation(flag.Name, settingSource, []string{where})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
	})
	return errors.Join(errs...)
}

// argumentsAfterModel is how many arguments of a command follow the model.
func argumentsAfterModel(cmd *cobra.Command) int { return len(cmd.Annotations[afterModel]) }

// excluded reports whether the command line gives another flag that excludes this one.
func excluded(flag *pflag.Flag, given map[string]bool) bool {
	const annotation = "cobra_annotation_mutually_exclusive" // of MarkFlagsMutuallyExclusive
	for _, group := range flag.Annotations[annotation] {
		for name := range strings.FieldsSeq(group) {
			if given[name] {
				return true
			}
		}
	}
	return false
}

// withSettings makes a command take flags from the environment and the configuration file.
func withSettings(root, cmd *cobra.Command, path *string) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		s, err := readSettings(root, *path)
		if err == nil {
			err = s.apply(cmd, args)
		}
		if err == nil && before != nil {
			err = before(cmd, args)
		}
		return err
	}
}
