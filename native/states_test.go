package native

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// A text's vector is the mean of what a trace of the text alone shows, by the CPU kernels and by MLX's own ops, whatever texts are beside it.
func TestStatesAreThoseOfATrace(t *testing.T) {
	for name, options := range map[string]engine.NativeOptions{"kernels": {}, "exact": {Exact: true}} {
		t.Run(name, func(t *testing.T) {
			m, err := Load(t.Context(), testenv.Model(t), options)
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			texts := testenv.Texts(t)[:30]
			layers := []int{1, len(m.network.Shape.Windows)}
			got, err := m.States(t.Context(), texts, engine.StatesOptions{Layers: layers})
			require.NoError(t, err)
			front, err := m.Encode(t.Context(), "", true)
			require.NoError(t, err)
			for i, text := range texts {
				ids, err := m.encoder.EncodePlain(t.Context(), text)
				require.NoError(t, err)
				trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{Rows: 1})
				require.NoError(t, err)
				for l, layer := range layers {
					size := m.network.Shape.HiddenSize
					want := make([]float32, size)
					for at := len(front); at < len(ids); at++ {
						token, squares := trace.Layers[layer][at*size:][:size], 0.0 // the first is the input
						for _, v := range token {
							squares += float64(v * v)
						}
						for k, v := range token {
							want[k] += v / float32(math.Sqrt(squares/float64(size))) / float32(len(ids)-len(front))
						}
					}
					require.Less(t, testenv.RelativeDifference(want, got[l][i]), 1e-2, "text %d, layer %d", i, layer)
				}
			}
			_, err = m.States(t.Context(), texts, engine.StatesOptions{Layers: []int{0}})
			require.Error(t, err)

			// With a prompt, the vector is that of its last token.
			prompted, err := m.States(t.Context(), texts, engine.StatesOptions{Layers: layers, Prompt: "The text {text} is about"})
			require.NoError(t, err)
			for i, text := range texts {
				ids, err := m.encoder.EncodePlain(t.Context(), "The text "+text+" is about")
				require.NoError(t, err)
				trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{Rows: 1})
				require.NoError(t, err)
				for l, layer := range layers {
					size := m.network.Shape.HiddenSize
					want, squares := make([]float32, size), 0.0
					token := trace.Layers[layer][(len(ids)-1)*size:][:size]
					for _, v := range token {
						squares += float64(v * v)
					}
					for k, v := range token {
						want[k] = v / float32(math.Sqrt(squares/float64(size)))
					}
					require.Less(t, testenv.RelativeDifference(want, prompted[l][i]), 1e-2, "text %d, layer %d", i, layer)
				}
			}
		})
	}
}

// The end of a prompt, where the state is read, stays when a text is cut; a prompt that leaves texts no room is refused.
func TestTheEndOfAStatesPromptStays(t *testing.T) {
	m, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	long := strings.Repeat("The goalkeeper saved two penalties. ", 2000)
	read := func(texts ...string) [][]float32 {
		vectors, err := m.States(t.Context(), texts, engine.StatesOptions{Layers: []int{2}, Prompt: "{text} is about"})
		require.NoError(t, err)
		return vectors[0]
	}
	got := read(long, long+" Let the dough rest for an hour.")
	require.Equal(t, got[0], got[1], "what was cut does not count")
	without, err := m.States(t.Context(), []string{long}, engine.StatesOptions{Layers: []int{2}, Prompt: "{text}"})
	require.NoError(t, err)
	require.Greater(t, testenv.RelativeDifference(without[0][0], got[0]), 0.05, "the prompt's end counts")

	for prompt, want := range map[string]string{"text": "exactly once", "{text} {text}": "exactly once", "{text}" + long: "find room", long + "{text}": "find room"} {
		_, err := m.States(t.Context(), []string{"a"}, engine.StatesOptions{Layers: []int{1}, Prompt: prompt})
		var option *engine.OptionError
		require.ErrorAs(t, err, &option)
		require.ErrorContains(t, err, want)
	}
	_, err = m.States(t.Context(), []string{"a"}, engine.StatesOptions{Layers: []int{1}, Prompt: "{text} \xff"})
	require.ErrorIs(t, err, engine.ErrInvalidUTF8)
}

// A layer that is asked for twice is given twice.
func TestALayerMayBeAskedForTwice(t *testing.T) {
	m := open(t)
	got, err := m.States(t.Context(), []string{"one", "another"}, engine.StatesOptions{Layers: []int{2, 1, 2}})
	require.NoError(t, err)
	require.Equal(t, got[0], got[2])
	require.NotEqual(t, got[0], got[1])
}
