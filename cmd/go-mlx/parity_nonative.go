//go:build !cgo || nonative

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func parityCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "parity MODEL",
		Short: "Compare the native engine with mlx-lm (not in this program)",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("this program is built without the native engine: build it with cgo")
		},
	}
}
