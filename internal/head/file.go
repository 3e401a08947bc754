package head

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

const (
	formatName = "go-mlx classifier "
	fileFormat = formatName + "3"
	// maxFile bounds a file: 4,000 labels on the states of the widest models.
	maxFile = 256 << 20
	// maxInfo bounds what is not numbers, of which escapes make up to twice as much: the format has a limit of 100 MB.
	maxInfo = 32 << 20
)

// ErrFile is wrapped by every error about a classifier file's contents.
var ErrFile = errors.New("not a classifier file that can be used")

// tensor is one of a file's.
type tensor struct {
	name   string
	shape  []int
	values *[]float32
}

func (h *Head) tensors() []tensor {
	k := len(h.Labels)
	return []tensor{{"weight", []int{k, h.size}, &h.weight}, {"bias", []int{k}, &h.bias}, {"mean", []int{h.size}, &h.mean},
		{"scale", []int{h.size}, &h.scale}, {"centres", []int{k, h.size}, &h.centres}}
}

// Write writes the head as a safetensors file: its numbers as tensors, all else as JSON in the metadata.
func (h *Head) Write(w io.Writer) error {
	if err := h.check(); err != nil {
		return err
	}
	size := 0
	for _, t := range h.tensors() {
		size += 4 * len(*t.values)
	}
	if size > maxFile-maxInfo {
		return fmt.Errorf("%d labels on states of %d values make a file of %d MB, and %d MB are the most: use fewer labels", len(h.Labels), h.size, size>>20, (maxFile-maxInfo)>>20)
	}
	info, err := json.Marshal(h.Info)
	if err != nil {
		return err
	}
	if len(info) > maxInfo {
		return fmt.Errorf("labels and validation table are %d MB, and %d MB are the most", len(info)>>20, maxInfo>>20)
	}
	header := map[string]any{"__metadata__": map[string]string{"format": fileFormat, "classifier": string(info)}}
	var values []float32
	for _, t := range h.tensors() {
		begin := 4 * len(values)
		values = append(values, *t.values...)
		header[t.name] = map[string]any{"dtype": "F32", "shape": t.shape, "data_offsets": []int{begin, 4 * len(values)}}
	}
	head, err := json.Marshal(header)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	for _, part := range []any{uint64(len(head)), head, values} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	_, err = w.Write(b.Bytes())
	return err
}

// Save writes a file. A reader sees the old one or the new one, never half of it.
func (h *Head) Save(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	file, err := os.CreateTemp(filepath.Dir(path), ".classifier-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if err := errors.Join(h.Write(file), file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// Load reads a file that Save wrote.
func Load(path string) (*Head, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	h, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// Parse reads a head from what Write wrote. Whatever the bytes are, the result is a head that can be used or an error.
func Parse(data []byte) (*Head, error) {
	fail := func(format string, args ...any) (*Head, error) {
		return nil, fmt.Errorf("%w: %w", ErrFile, fmt.Errorf(format, args...))
	}
	if len(data) > maxFile {
		return fail("it has more than %d bytes", maxFile)
	}
	tensors, metadata, err := safetensors.Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fail("%w", err)
	}
	if metadata["format"] != fileFormat {
		what := "it is no classifier's"
		if strings.HasPrefix(metadata["format"], formatName) {
			what = "another version of go-mlx wrote it"
		}
		return fail("its format is %q and not %q: %s; write one with `go-mlx classifier train`, from the labelled texts", metadata["format"], fileFormat, what)
	}
	h := &Head{}
	if err := json.Unmarshal([]byte(metadata["classifier"]), &h.Info); err != nil {
		return fail("metadata: %w", err)
	}
	weight := tensors["weight"]
	if len(weight.Shape) != 2 || len(tensors) != len(h.tensors()) {
		return fail("it must hold %d tensors, weight with two dimensions", len(h.tensors()))
	}
	h.size = weight.Shape[1]
	start := 8 + int64(binary.LittleEndian.Uint64(data))
	for _, want := range h.tensors() {
		t, ok := tensors[want.name]
		if !ok || t.DType != "F32" || !slices.Equal(t.Shape, want.shape) {
			return fail("tensor %s is %s %v, want F32 %v", want.name, t.DType, t.Shape, want.shape)
		}
		out := make([]float32, t.Elements())
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[start+t.Offset[0]+int64(4*i):]))
		}
		*want.values = out
	}
	if err := h.check(); err != nil {
		return fail("%w", err)
	}
	return h, nil
}
