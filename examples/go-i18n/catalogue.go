package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/leonelquinteros/gotext"
	"golang.org/x/text/encoding/htmlindex"
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

// openSource opens a file of JSON lines, a gettext catalogue (.po) or a JSON catalogue (.json): an object or a list whose values are strings or, at any
// depth, such objects and lists. Of a catalogue every string becomes a line with its key.
func openSource(path, field string) (*source, error) {
	var read func([]byte) ([]entry, error)
	switch strings.ToLower(filepath.Ext(path)) {
	case ".po", ".pot":
		read = readPO
	case ".json":
		read = readJSON
	default:
		return openLines(path)
	}
	if field == "key" || field == "context" {
		return nil, fmt.Errorf("-field %s: in what a catalogue becomes, that is the name of another field", field)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	entries, err := read(data)
	if err == nil && len(entries) == 0 {
		err = errors.New("it has no strings: is it a catalogue?")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	slices.SortFunc(entries, func(a, b entry) int {
		// Also by text: {"a.b": ""} and {"a": {"b": ""}} have the same key, and a later run must meet them in the same order.
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Context, b.Context), strings.Compare(a.Text, b.Text))
	})
	var lines bytes.Buffer
	for _, e := range entries {
		record := map[string]string{"key": e.Key, field: e.Text}
		if e.Context != "" {
			record["context"] = e.Context
		}
		line, err := marshal(record)
		if err != nil {
			return nil, err
		}
		lines.Write(line)
	}
	return &source{&lines, int64(lines.Len()), func() error { return nil }}, nil
}

// openLines opens a file of JSON lines.
func openLines(path string) (*source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &source{file, info.Size(), file.Close}, nil
}

// marshal writes a value as a line, with < and & as they are: texts of user interfaces have many of them.
func marshal(value any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return line.Bytes(), err
}

// charset finds the encoding in the header of a gettext catalogue, which is ASCII in every encoding that gettext knows.
var charset = regexp.MustCompile(`(?m)^"Content-Type:[^"\n]*\bcharset=([\w.:-]+)`)

// toUTF8 is a gettext catalogue in UTF-8.
func toUTF8(data []byte) ([]byte, error) {
	if utf8.Valid(data) { // whatever its header says; templates say CHARSET
		return data, nil
	}
	name := "UTF-8"
	if found := charset.FindSubmatch(data); found != nil {
		name = string(found[1])
	}
	coding, err := htmlindex.Get(name)
	if err != nil || strings.EqualFold(name, "UTF-8") || strings.EqualFold(name, "utf8") {
		return nil, fmt.Errorf("its encoding is not the %q of its header: convert it, such as with msgconv -t UTF-8", name)
	}
	return coding.NewDecoder().Bytes(data)
}

// readPO is the strings of a gettext catalogue: the translation where there is one, else the original.
func readPO(data []byte) ([]entry, error) {
	data, err := toUTF8(data)
	if err != nil {
		return nil, err
	}
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
	return out, nil
}

// readJSON is the strings of a JSON catalogue, with the keys that lead to them joined by dots; places in lists are keys, too. Numbers, truth values
// and null, which stands for what is not translated yet, are passed over.
func readJSON(data []byte) ([]entry, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8: convert it")
	}
	var root any
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &root); err != nil {
		return nil, fmt.Errorf("it is no JSON catalogue: %w", err)
	}
	var out []entry
	under := func(prefix, key string) string {
		if prefix == "" {
			return key
		}
		return prefix + "." + key
	}
	var walk func(prefix string, value any)
	walk = func(prefix string, value any) {
		switch v := value.(type) {
		case string:
			if strings.TrimSpace(v) != "" {
				out = append(out, entry{Key: prefix, Text: v})
			}
		case map[string]any:
			for key, child := range v {
				walk(under(prefix, key), child)
			}
		case []any: // forms of a plural, or lines of a longer text
			for i, child := range v {
				walk(under(prefix, strconv.Itoa(i)), child)
			}
		}
	}
	walk("", root)
	return out, nil
}
