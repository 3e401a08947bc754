package modelfiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
)

// Source is where a model's files are: a folder in Hugging Face's layout, a folder with a GGUF file, or a GGUF file by itself. The
// metadata of a GGUF file are read as if they were in the usual files. It is safe for concurrent use.
type Source struct {
	Dir  string // the folder
	GGUF string // the GGUF file that holds the weights; "" for safetensors

	alone bool // the file was named, not its folder: its metadata come before files beside it

	mu      sync.Mutex   // guards the headers
	header  *gguf.Header // of the GGUF file; nil until it is read, and after Forget
	outline *gguf.Header // the same without the vocabulary
}

// ErrNotAModel is wrapped by errors about paths that are no model.
var ErrNotAModel = errors.New("not a model folder")

// Find looks at a path: a folder or a .gguf file.
func Find(path string) (*Source, error) {
	stat, err := os.Stat(path)
	switch {
	case err != nil:
		if to, _ := os.Readlink(path); to != "" {
			return nil, fmt.Errorf("%w: %s is a link to %s, which is not there: download or copy the model again: %w", ErrNotAModel, path, to, err)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = &missing{fmt.Errorf("there is no file or folder %s; a model of the hub is named ORG/NAME", path)}
		}
		return nil, fmt.Errorf("%w: %w", ErrNotAModel, err)
	case !stat.IsDir():
		if err := isGGUF(path, stat); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotAModel, err)
		}
		return &Source{Dir: filepath.Dir(path), GGUF: path, alone: true}, nil
	}
	s := &Source{Dir: path}
	tensors, err := Files(path, modelPattern)
	if err != nil {
		return nil, err
	}
	if len(tensors) == 0 {
		if s.GGUF, err = ggufIn(path); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(path, "config.json")
	if _, err := os.Stat(config); err != nil && s.GGUF == "" {
		if to, _ := os.Readlink(config); to != "" {
			return nil, fmt.Errorf("%w: %s is a link to %s, which is not there: download or copy the model again: %w", ErrNotAModel, config, to, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrNotAModel, err)
	}
	return s, nil
}

// ggufPattern matches the names of GGUF files, with an ending in letters of any size.
const ggufPattern = "*.[gG][gG][uU][fF]"

// isGGUF returns nil for a file that is named .gguf, or that begins as one, as Ollama's blobs do, which have no ending.
func isGGUF(path string, stat fs.FileInfo) error {
	if !stat.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a folder nor a regular file", path)
	}
	if strings.EqualFold(filepath.Ext(path), ".gguf") {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil || string(magic[:]) != "GGUF" {
		return fmt.Errorf("%s is a file, and not a .gguf one", path)
	}
	return nil
}

// ggufIn is the GGUF model of a folder, or "".
func ggufIn(dir string) (string, error) {
	files, err := Files(dir, ggufPattern)
	if err != nil {
		return "", err
	}
	models := slices.DeleteFunc(files, func(file string) bool { return !isModelFile(file) })
	switch len(models) {
	case 0:
		return "", nil
	case 1:
		return models[0], nil
	}
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = filepath.Base(m)
	}
	return "", &engine.CheckpointError{Path: dir, Problems: []string{fmt.Sprintf("%d .gguf files: name one of them: %s", len(models), strings.Join(names, ", "))}}
}

// isModelFile is false for .gguf files that belong to another one: later parts, the vision part of a model, and what a Mac writes beside a
// file that it copies (._NAME). What is no file, as a folder of that name, is none either.
func isModelFile(file string) bool {
	stat, err := os.Stat(file)
	base := strings.ToLower(filepath.Base(file))
	return err == nil && stat.Mode().IsRegular() && !gguf.LaterPart(file) && !strings.HasPrefix(base, "mmproj") && !strings.HasPrefix(base, ".")
}

// Header is the header of the GGUF file.
func (s *Source) Header() (*gguf.Header, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.readHeader()
	return s.header, err
}

// readHeader reads the header unless it is there. The caller holds the lock.
func (s *Source) readHeader() error {
	if s.header != nil {
		return nil
	}
	h, err := gguf.ReadHeader(s.GGUF)
	if err != nil {
		return err
	}
	s.header, s.outline = h, h.Outline()
	return nil
}

// Outline is the header without the vocabulary.
func (s *Source) Outline() (*gguf.Header, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outline != nil {
		return s.outline, nil
	}
	var err error
	s.outline, err = gguf.ReadOutline(s.GGUF)
	return s.outline, err
}

// Forget gives back the memory of the GGUF file's vocabulary, which is tens of megabytes. It is read again if it is needed again.
func (s *Source) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header = nil
}

// OpenGGUF opens the weights of a GGUF file; see gguf.Open.
func (s *Source) OpenGGUF(packing gguf.Packing) (*gguf.Checkpoint, error) {
	h, err := s.Outline()
	if err != nil {
		return nil, err
	}
	return gguf.OpenHeader(s.GGUF, h, packing)
}

// Tokenizer returns the model's tokenizer.json, or the parts of a tokenizer that a GGUF file has in its place.
func (s *Source) Tokenizer() (json []byte, parts *gguf.Parts, err error) {
	const name = "tokenizer.json"
	inFile := s.alone
	if s.GGUF != "" && !inFile {
		_, err := os.Stat(filepath.Join(s.Dir, name))
		inFile = errors.Is(err, fs.ErrNotExist)
	}
	if inFile {
		if h, err := s.Header(); err == nil {
			if parts, err := h.Parts(); err == nil && parts != nil {
				return nil, parts, nil
			}
		}
	}
	json, err = s.Read(name)
	return json, nil, err
}

// Read returns one of the model's small files, without a byte order mark. The error of a file that is not there is an os.ErrNotExist.
func (s *Source) Read(name string) ([]byte, error) {
	data, err := s.read(name)
	return bytes.TrimPrefix(data, []byte("\ufeff")), err
}

func (s *Source) read(name string) ([]byte, error) {
	path := filepath.Join(s.Dir, name)
	if s.GGUF == "" {
		return os.ReadFile(path)
	}
	if name == "config.json" {
		return s.config(path)
	}
	first, second := func() ([]byte, error) { return os.ReadFile(path) }, func() ([]byte, error) { return s.derived(name) }
	if s.alone {
		first, second = second, first
	}
	data, err := first()
	if errors.Is(err, fs.ErrNotExist) {
		if other, err2 := second(); err2 == nil || !errors.Is(err2, fs.ErrNotExist) {
			return other, err2
		}
	}
	return data, err
}

// missing is the error of a file that is not there and whose contents the GGUF file does not have. It is a fs.ErrNotExist, which it does
// not say: what to do about it is in the reason.
type missing struct{ reason error }

func (m *missing) Error() string   { return m.reason.Error() }
func (m *missing) Unwrap() []error { return []error{m.reason, fs.ErrNotExist} }

// derived is a file made from the metadata of the GGUF file.
func (s *Source) derived(name string) ([]byte, error) {
	h, err := s.Header()
	if err != nil {
		return nil, err
	}
	switch name {
	case "tokenizer.json":
		data, err := h.Tokenizer()
		if err != nil { // a file beside may still have it
			return nil, &missing{fmt.Errorf("%s: %w", s.GGUF, err)}
		}
		return data, nil
	case "tokenizer_config.json":
		if tokens, _ := h.Metadata["tokenizer.ggml.tokens"].([]string); len(tokens) > 0 {
			return json.Marshal(h.TokenizerConfig())
		}
	}
	return nil, &missing{fmt.Errorf("%s has no %s", s.GGUF, name)}
}

// config is the config by the GGUF file's metadata, which override a config in the folder: they describe the weights in the file.
func (s *Source) config(path string) ([]byte, error) {
	beside, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h, err := s.Header() // with the vocabulary, which tells the end tokens
	if err != nil {
		return nil, err
	}
	c, err := gguf.OpenHeader(s.GGUF, h, gguf.Plain)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	said, assumed, err := c.Config()
	if err != nil {
		if beside != nil && !s.alone && errors.Is(err, gguf.ErrMalformed) {
			return beside, nil // which was written for it
		}
		return nil, fmt.Errorf("%s: %w", s.GGUF, err)
	}
	var given map[string]any
	if beside == nil || s.alone {
		maps.Copy(assumed, said)
		return json.Marshal(assumed)
	}
	if err := Unmarshal(beside, &given); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	eos := given["eos_token_id"]
	if text, ok := given["text_config"].(map[string]any); ok {
		given = text
	}
	if eos != nil {
		given["eos_token_id"] = eos
	}
	maps.Copy(assumed, given)
	maps.Copy(assumed, said)
	return json.Marshal(assumed)
}

// Bytes is about what loading will need.
func (s *Source) Bytes() int64 {
	if s.GGUF == "" {
		return Bytes(s.Dir, modelPattern)
	}
	c, err := s.OpenGGUF(gguf.Plain)
	if err != nil { // then it will not load either
		if stat, err := os.Stat(s.GGUF); err == nil {
			return stat.Size()
		}
		return 0
	}
	defer c.Close()
	var bytes int64
	for _, t := range c.Header.Tensors { // of all parts
		bytes += t.Bytes()
	}
	return bytes
}

// Types are the types of the GGUF file's matrices, those of all parts.
func (s *Source) Types() (string, error) {
	c, err := s.OpenGGUF(gguf.Plain)
	if err != nil {
		return "", err
	}
	return c.Types(), c.Close()
}
