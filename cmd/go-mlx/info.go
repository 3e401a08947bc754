package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

func infoCommand() *cobra.Command {
	var path string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info MODEL",
		Short: "Describe a model without loading it",
		Long:  "Describe a model, a folder, a .gguf file or a name ORG/NAME, by its config and the headers of its weight files. Nothing is loaded.",
		RunE: withModel(&path, func(cmd *cobra.Command) error {
			i, err := mlx.Inspect(path)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), i)
			}
			template := "none: it can generate and classify, but not chat"
			if i.ChatTemplate {
				template = "yes"
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, row := range [][2]string{
				{"source", i.Source},
				{"engine", fmt.Sprintf("%s (%s)", i.Engine, i.Reason)},
				{"architecture", i.Architecture},
				{"layers", fmt.Sprint(i.Layers)},
				{"hidden size", fmt.Sprint(i.HiddenSize)},
				{"vocabulary", fmt.Sprint(i.VocabSize)},
				{"context length", fmt.Sprint(i.ContextLength)},
				{"dtype", i.DType},
				{"quantization", orNone(i.Quantization)},
				{"parameters", fmt.Sprintf("%.2f M", float64(i.Parameters)/1e6)},
				{"weights", fmt.Sprintf("%.2f MB", float64(i.WeightBytes)/1e6)},
				{"chat template", template},
			} {
				fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
			}
			return w.Flush()
		}),
	}
	addModelFlag(cmd, &path)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
