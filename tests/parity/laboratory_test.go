package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/parity"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native"
)

// faultyModel is a folder whose own model.py is Gemma 3 with a fault.
func faultyModel(t *testing.T, fault string) string {
	dir := testenv.CopyModel(t)
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["model_file"] = "model.py" })
	source := `import mlx.nn as nn
from mlx_lm.models import gemma3_text
from mlx_lm.models.gemma3_text import ModelArgs


class Model(gemma3_text.Model):
    def __init__(self, args):
        super().__init__(args)
        layers = self.model.layers
        self.fault = None
` + fault
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.py"), []byte(source), 0o644))
	return dir
}

func compare(t *testing.T, pythonDir string, options parity.Options) *parity.Report {
	t.Helper()
	first, err := native.Load(t.Context(), testenv.Model(t), engine.NativeOptions{Exact: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, first.Close()) }()
	second, err := bridge.Load(t.Context(), pythonDir, bridge.Options{Python: testenv.Python(t), TrustRemoteCode: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, second.Close()) }()
	report, err := parity.Run(t.Context(), first, second, options)
	require.NoError(t, err)
	return report
}

func TestAPlantedFaultIsFoundAndNamed(t *testing.T) {
	for name, c := range map[string]struct{ fault, layer, op string }{
		"RoPE base of one layer": {`        layers[3].self_attn.rope = nn.RoPE(args.head_dim, traditional=False, base=200)
`, "layer 3", "self_attn.rope"},
		"transposed weight": {`
    def sanitize(self, weights):
        name = "model.layers.2.self_attn.o_proj.weight"
        assert weights[name].shape[0] == weights[name].shape[1]
        return super().sanitize({**weights, name: weights[name].T})
`, "layer 2", "self_attn.o_proj"},
		"missing norm": {`        layers[4].post_feedforward_layernorm = nn.Identity()

    def sanitize(self, weights):
        return super().sanitize({k: v for k, v in weights.items() if "layers.4.post_feedforward" not in k})
`, "layer 4", "post_feedforward_layernorm"},
	} {
		t.Run(name, func(t *testing.T) {
			report := compare(t, faultyModel(t, c.fault), parity.Options{Prompts: testenv.Texts(t)[:2], Tokens: 4, Rows: 2, Tolerance: 0.002})
			require.False(t, report.Passed)
			require.NotNil(t, report.Diverging)
			require.True(t, report.Diverging.Beyond)
			require.Equal(t, c.layer, report.Diverging.Layer)
			require.Equal(t, c.op, report.Diverging.Op)
			require.Contains(t, fmt.Sprint(report.Failures()), c.layer+", "+c.op)
		})
	}
}

func TestEqualEnginesPassAndTheReportIsWhole(t *testing.T) {
	options := parity.Options{Prompts: testenv.Texts(t)[:3], Labels: testenv.Labels(t), Tokens: 8, Rows: 3}
	report := compare(t, testenv.Model(t), options)
	require.True(t, report.Passed, report.Failures())
	require.Nil(t, report.Diverging)
	require.Len(t, report.Layers, 8)
	for _, layer := range report.Layers {
		require.Len(t, layer.Differences, len(report.Columns))
		require.True(t, layer.Differences[0].Equal(), layer.Name)
	}
	var err error
	report.Key, err = parity.NewKey(testenv.Model(t), options, map[string]string{"mlx": "1"})
	require.NoError(t, err)

	data, err := json.Marshal(report)
	require.NoError(t, err)
	var again parity.Report
	require.NoError(t, json.Unmarshal(data, &again))
	require.Equal(t, report.Layers[3].Differences[1], again.Layers[3].Differences[1])
	require.Empty(t, again.Key.Stale(report.Key))

	changed := testenv.CopyModel(t)
	testenv.EditJSON(t, changed, "config.json", func(c map[string]any) { c["rope_theta"] = 2e6 })
	key, err := parity.NewKey(changed, options, map[string]string{"mlx": "2"})
	require.NoError(t, err)
	stale := again.Key.Stale(key)
	require.Len(t, stale, 2)
	require.Contains(t, stale[0], "config.json was")
	require.Contains(t, stale[1], "version of mlx was 1, is 2")

	var page bytes.Buffer
	report.Prompts[0].Text = `<script>alert("no")</script>`
	require.NoError(t, report.WriteHTML(&page))
	require.Contains(t, page.String(), "The engines agree")
	require.NotContains(t, page.String(), "<script")
	require.NotContains(t, page.String(), "http") // nothing from elsewhere
}
