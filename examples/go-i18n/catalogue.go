package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leonelquinteros/gotext"
)

// entry is a string of a catalogue.
type entry struct {
	Key     string `json:"key"`
	Context string `json:"context,omitempty"`
	Text    string `json:"prompt"`
}

// source is what a job reads: JSON lines, of a file or made of a catalogue.
type source struct {
	io.Reader
	size  int64
	close func() error
}

// openSource opens a file of JSON lines, a gettext catalogue (.po) or a JSON catalogue (.json): an object whose values are strings, lists or such objects.
// Of a catalogue every string becomes a line with its key.
func openSource(path, field string) (*source, error) {
	var read func([]byte) ([]entry, error)
	switch strings.ToLower(filepath.Ext(path)) {
	case ".po", ".pot":
		read = readPO
	case ".json":
		read = readJSON
	default:
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		return &source{file, info.Size(), file.Close}, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	entries, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Context, b.Context))
	})
	var lines bytes.Buffer
	for _, e := range entries {
		record := map[string]string{"key": e.Key, field: e.Text}
		if e.Context != "" {
			record["context"] = e.Context
		}
		line, err := json.Marshal(record)
		if err != nil {
			return nil, err
		}
		lines.Write(append(line, '\n'))
	}
	return &source{&lines, int64(lines.Len()), func() error { return nil }}, nil
}

// readPO is the strings of a gettext catalogue: the translation where there is one, else the original.
func readPO(data []byte) ([]entry, error) {
	po := gotext.NewPo()
	po.Parse(data)
	var out []entry
	add := func(context string, t *gotext.Translation) {
		text := t.Trs[0]
		if text == "" {
			text = t.ID
		}
		if t.ID != "" { // that of the header
			out = append(out, entry{t.ID, context, text})
		}
	}
	for _, t := range po.GetDomain().GetTranslations() {
		add("", t)
	}
	for context, translations := range po.GetDomain().GetCtxTranslations() {
		for _, t := range translations {
			add(context, t)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it has no strings: is it a gettext catalogue?")
	}
	return out, nil
}

// readJSON is the strings of a JSON catalogue, with the keys that lead to them joined by dots; places in lists are keys, too.
func readJSON(data []byte) ([]entry, error) {
	var root map[string]any
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &root); err != nil {
		return nil, err
	}
	var out []entry
	under := func(prefix, key string) string {
		if prefix == "" {
			return key
		}
		return prefix + "." + key
	}
	var walk func(prefix string, value any) error
	walk = func(prefix string, value any) error {
		switch v := value.(type) {
		case string:
			if strings.TrimSpace(v) != "" {
				out = append(out, entry{Key: prefix, Text: v})
			}
		case map[string]any:
			for key, child := range v {
				if err := walk(under(prefix, key), child); err != nil {
					return err
				}
			}
		case []any: // forms of a plural, or lines of a longer text
			for i, child := range v {
				if err := walk(under(prefix, strconv.Itoa(i)), child); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("%q is neither a string nor an object or a list of strings", prefix)
		}
		return nil
	}
	if err := walk("", root); err != nil {
		return nil, err
	}
	return out, nil
}
