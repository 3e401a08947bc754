package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func newJob(t *testing.T, sentences int) job {
	var b strings.Builder
	heldout := testenv.Heldout(t)
	for i := range sentences {
		data, err := json.Marshal(map[string]any{"prompt": heldout[i%len(heldout)].Text, "id": i})
		require.NoError(t, err)
		b.Write(data)
		b.WriteByte('\n')
		if i%100 == 7 {
			b.WriteString("\n") // an empty line means nothing
		}
	}
	dir := t.TempDir()
	j := job{in: filepath.Join(dir, "in.jsonl"), out: filepath.Join(dir, "out.jsonl"), field: "prompt", labels: testenv.Labels(t)}
	require.NoError(t, os.WriteFile(j.in, []byte(b.String()), 0o600))
	return j
}

func model(t *testing.T) mlx.TextModel {
	m, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// However often a run is broken off, and wherever, the file is in the end what one run makes.
func TestABrokenRunGoesOn(t *testing.T) {
	const n = 620
	m, j := model(t), newJob(t, n)
	s, err := j.run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, n, s.Done)
	require.Equal(t, s.TotalBytes, s.Bytes)
	want, err := os.ReadFile(j.out)
	require.NoError(t, err)
	require.Equal(t, n, strings.Count(string(want), "\n"))

	j.out += ".again"
	for first := true; ; first = false {
		ctx, cancel := context.WithCancel(t.Context())
		j.progress = func(stats) { cancel() } // after a window
		_, err = j.run(ctx, m)
		if first {
			require.ErrorIs(t, err, context.Canceled)
		}
		// And as if the machine had stopped in the middle of a line.
		data, err := os.ReadFile(j.out)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(j.out, data[:len(data)-17], 0o600))
		if !first {
			break
		}
	}
	j.progress = nil
	s, err = j.run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, n, s.Done)
	require.Positive(t, s.Before)
	got, err := os.ReadFile(j.out)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	total := 0
	for _, count := range s.ByDomain {
		total += count
	}
	require.Equal(t, n, total)

	s, err = j.run(t.Context(), m)
	require.NoError(t, err, "a finished file stays as it is")
	require.Equal(t, n, s.Before)
}

func TestFieldsAreKeptAndUnsureOnesUnknown(t *testing.T) {
	m, j := model(t), newJob(t, 20)
	j.abstain = 0.9999
	s, err := j.run(t.Context(), m)
	require.NoError(t, err)
	require.Positive(t, s.ByDomain[unknown])
	data, err := os.ReadFile(j.out)
	require.NoError(t, err)
	var first map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(string(data), "\n", 2)[0]), &first))
	require.Equal(t, 0.0, first["id"])
	require.Contains(t, first, "domain_margin")
}

func TestWhatDoesNotFitIsAnError(t *testing.T) {
	m, j := model(t), newJob(t, 5)
	require.NoError(t, os.WriteFile(j.out, []byte(`{"prompt": "another file", "domain": "x"}`+"\n"), 0o600))
	_, err := j.run(t.Context(), m)
	require.ErrorContains(t, err, "give another output file")
	require.NoError(t, os.WriteFile(j.out, []byte("what is this\n"), 0o600))
	_, err = j.run(t.Context(), m)
	require.ErrorContains(t, err, "not of this program")
	require.NoError(t, os.Remove(j.out))
	require.NoError(t, os.WriteFile(j.in, []byte("{\"prompt\": \"ok\"}\n{\"text\": 1}\n"), 0o600))
	s, err := j.run(t.Context(), m)
	require.ErrorContains(t, err, `sentence 2 has no text in "prompt"`)
	require.Equal(t, 1, s.Done, "what came before is sorted")
	j.in = "/none"
	_, err = j.run(t.Context(), m)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLabelsAreLines(t *testing.T) {
	require.Equal(t, []string{"night life", "sport"}, readLabels("\ufeffnight life\r\n\n sport "))
}
