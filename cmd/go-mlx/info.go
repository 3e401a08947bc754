package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func infoCommand() *cobra.Command {
	var flags modelFlags
	cmd := &cobra.Command{
		Use:   "info --model DIR",
		Short: "Load a model and describe it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags.quiet = true
			m, err := flags.load(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer m.Close()
			metrics, err := m.Metrics(cmd.Context())
			if err != nil {
				return err
			}
			i := m.Info()
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, row := range [][2]string{
				{"path", i.Path},
				{"engine", fmt.Sprintf("%s (%s)", i.Engine, i.Reason)},
				{"architecture", i.Architecture},
				{"device", i.Device},
				{"MLX", i.MLXVersion},
				{"layers", fmt.Sprint(i.Layers)},
				{"hidden size", fmt.Sprint(i.HiddenSize)},
				{"vocabulary", fmt.Sprint(i.VocabSize)},
				{"context length", fmt.Sprint(i.ContextLength)},
				{"dtype", i.DType},
				{"quantization", orNone(i.Quantization)},
				{"parameters", fmt.Sprintf("%.2f M", float64(i.Parameters)/1e6)},
				{"weights", fmt.Sprintf("%.2f MB", float64(i.WeightBytes)/1e6)},
				{"MLX active", fmt.Sprintf("%.2f MB", float64(metrics.ActiveBytes)/1e6)},
			} {
				fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
			}
			return w.Flush()
		},
	}
	flags.add(cmd)
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
