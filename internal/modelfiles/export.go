package modelfiles

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/gguf"
)

// Export writes the model of a GGUF file as a folder in Hugging Face's layout, with its weights in safetensors: those of types that
// these have as they are, others in bfloat16. The folder must not exist.
func (s *Source) Export(dir string) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil { // half a model is of no use
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		data, err := s.Read(name)
		if errors.Is(err, fs.ErrNotExist) && name != "tokenizer.json" {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	c, err := s.OpenGGUF(gguf.Plain)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = c.WriteTo(w)
	return errors.Join(err, w.Flush(), f.Close())
}
