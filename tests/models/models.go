// Package models holds the project's own small models, for programs that are tested where there is no checkout: go-mlx selftest.
package models

import "embed"

// Domains is the folder of the model that sorts sentences by domain.
//
//go:embed domains/config.json domains/generation_config.json domains/model.safetensors domains/tokenizer.json domains/tokenizer_config.json
var Domains embed.FS
