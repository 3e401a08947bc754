package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/hub"
)

// PullError says why a model cannot be downloaded.
type PullError struct {
	Name    string
	Code    string // "gated", "missing", "which", "space", "cache", "hash", "length", "busy", "network", "unsafe" or "failed"
	Message string
}

func (e *PullError) Error() string { return fmt.Sprintf("pull %s: %s", e.Name, e.Message) }

func pullCommand() *cobra.Command {
	var python string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull ORG/NAME[@REVISION][:FILE.gguf]",
		Short: "Download a model from the Hugging Face hub",
		Long: `Download a model into the cache that huggingface_hub and everything built on it share, and print its folder. An
interrupted download goes on where it stopped, also in the next run; files that are there already are not fetched again. HF_TOKEN is used for gated models, HF_ENDPOINT for another hub, HF_HOME says where the cache is.`,
		Args: modelNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stderr := cmd.ErrOrStderr()
			if quiet {
				stderr = nil
			}
			path, err := pull(cmd.Context(), args[0], python, stderr)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	cmd.Flags().StringVar(&python, "python", "", "Python interpreter with huggingface_hub")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress on stderr")
	return cmd
}

func pull(ctx context.Context, text, python string, stderr io.Writer) (string, error) {
	name, ok := hub.Parse(text)
	if !ok {
		return "", usageError{fmt.Errorf("%q is not ORG/NAME; @REVISION or :FILE.gguf may follow", text)}
	}
	cache, err := hub.CacheDir()
	if err != nil {
		return "", err
	}
	tool, err := bridge.NewTool(python)
	if err != nil {
		return "", fmt.Errorf("pull uses Python's huggingface_hub: %w", err)
	}
	tool.Stderr = stderr
	tool.GoOnline()
	tool.AddEnv("HF_HUB_CACHE=" + cache)
	args := []string{"-m", "go_mlx_worker.pull", name.Repo, "--revision=" + name.Revision}
	if name.File != "" {
		args = append(args, "--file="+name.File) // it may begin with a dash
	}
	out, err := tool.Run(ctx, args...)
	if err != nil {
		return "", err
	}
	var answer struct{ Path, Error, Message string }
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &answer); err != nil {
		return "", fmt.Errorf("pull: %w", err)
	}
	if answer.Error != "" {
		return "", &PullError{Name: name.String(), Code: answer.Error, Message: answer.Message}
	}
	return answer.Path, nil
}

func listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the models that were downloaded",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			models, unread := hub.List() // the error names those that are not listed
			if asJSON {
				return errors.Join(printJSON(cmd.OutOrStdout(), append([]hub.Model{}, models...)), unread)
			}
			if len(models) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no model was downloaded yet: see go-mlx help pull")
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, m := range models {
				fmt.Fprintf(w, "%s\t%.1f MB\t%s\n", m.Name, float64(m.Bytes)/1e6, printable(strings.Join(m.Revisions, ", ")))
			}
			return errors.Join(w.Flush(), unread)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// modelNames checks that there is at least one argument, and no more than most.
func modelNames(most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return errors.New("name a model of the hub, as ORG/NAME")
		case len(args) > most:
			return fmt.Errorf("name one model, and not %d", len(args))
		}
		return nil
	}
}

func rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ORG/NAME...",
		Short: "Delete models that were downloaded",
		Long:  "Delete models from the cache that huggingface_hub and everything built on it share, with all their revisions.",
		Args:  modelNames(1 << 20),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				bytes, err := hub.Remove(name)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is deleted: %.1f MB\n", name, float64(bytes)/1e6)
			}
			return errors.Join(errs...)
		},
	}
}
